"""A narrow Rotated RetinaNet with the distribution head, trained from scratch: three levels, one head convolution."""

_base_ = ["./runtime.py"]

norm = dict(type="GN", num_groups=8, requires_grad=True)
model = dict(
    type="mmdet.SingleStageDetector",
    data_preprocessor=dict(
        type="mmdet.DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
        boxtype2tensor=False,
    ),
    backbone=dict(
        type="mmdet.ResNet",
        depth=18,
        base_channels=32,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        style="pytorch",
        zero_init_residual=False,
    ),
    neck=dict(
        type="mmdet.FPN", in_channels=[32, 64, 128, 256], out_channels=64, start_level=1, num_outs=3, norm_cfg=norm
    ),
    bbox_head=dict(
        type="RotatedRetinaDistributionHead",
        num_classes=None,  # as many as `classes`
        in_channels=64,
        feat_channels=64,
        stacked_convs=1,
        norm_cfg=norm,
        reg_max=8,
        xywh_range=(-2.0, 2.0),
        angle_range=(-5.0, 2.0),
        anchor_generator=dict(
            type="FakeRotatedAnchorGenerator",
            angle_version=None,
            octave_base_scale=2,
            scales_per_octave=3,
            ratios=[1.0, 0.5, 2.0],
            strides=[8, 16, 32],
        ),
        bbox_coder=dict(
            type="DeltaXYWHTRBBoxCoder", angle_version="oc", norm_factor=None, edge_swap=False, proj_xy=False
        ),
        reg_decoded_bbox=True,
        loss_cls=dict(type="mmdet.FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="GDLoss", loss_type="gwd", fun="log1p", tau=0, loss_weight=5.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type="mmdet.MaxIoUAssigner",
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
            ignore_iof_thr=-1,
            iou_calculator=dict(type="CircumscribedHBboxOverlaps2D"),
        ),
        sampler=dict(type="mmdet.PseudoSampler"),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=2000, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms_rotated", iou_threshold=0.1), max_per_img=2000
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
