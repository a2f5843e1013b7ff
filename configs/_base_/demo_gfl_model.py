"""A narrow GFL, trained from scratch: three levels, one head convolution."""

_base_ = ["./runtime.py", "./gfl_r18.py"]

norm = dict(type="GN", num_groups=8, requires_grad=True)
model = dict(
    backbone=dict(base_channels=32, frozen_stages=-1, norm_eval=False, zero_init_residual=False, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64, add_extra_convs=False, num_outs=3, norm_cfg=norm),
    bbox_head=dict(
        num_classes=None,  # as many as `classes`
        in_channels=64,
        feat_channels=64,
        stacked_convs=1,
        norm_cfg=norm,
        anchor_generator=dict(octave_base_scale=4, strides=[8, 16, 32]),
    ),
)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=35, norm_type=2),
)
default_hooks = dict(
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1000, save_last=True), logger=dict(interval=20)
)
log_processor = dict(window_size=20, by_epoch=False)
