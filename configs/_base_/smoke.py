"""The demo made smaller, for `make smoke`: scenes of 96 px, half the channels, no loader processes, a few steps."""

_base_ = ["./demo_data.py", "./demo_model.py"]

data_root = "data/smoke/"
patch_size = 96
scenes = dict(train=8, val=4, image_size=(96, 96))
model = dict(
    # With zeros, a rounding error stays one over a few steps: CPUs of different kinds can be compared.
    backbone=dict(base_channels=16, zero_init_residual=True),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32),
    test_cfg=dict(score_thr=0.0),  # so few steps leave no detection that is sure of itself
)
loader = dict(batch_size=4, num_workers=0, persistent_workers=False)
train_dataloader = loader
val_dataloader = loader
train_cfg = dict(type="IterBasedTrainLoop", max_iters=6, val_begin=10000)  # make smoke evaluates
# Adam's first steps would otherwise make as much of a rounding error as of a gradient.
optim_wrapper = dict(optimizer=dict(eps=1e-3))
param_scheduler = [dict(type="LinearLR", start_factor=0.5, by_epoch=False, begin=0, end=4)]
default_hooks = dict(logger=dict(interval=1))
log_processor = dict(window_size=1)
