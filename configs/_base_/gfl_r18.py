"""GFL, R-18: four distances of 17 bins each, quality focal loss; the published LD student, and deeper the teacher."""

model = dict(
    type="mmdet.SingleStageDetector",
    data_preprocessor=dict(
        type="mmdet.DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type="mmdet.ResNet",
        depth=18,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=True,
        style="pytorch",
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet18"),
    ),
    neck=dict(
        type="mmdet.FPN",
        in_channels=[64, 128, 256, 512],
        out_channels=256,
        start_level=1,
        add_extra_convs="on_output",
        num_outs=5,
    ),
    bbox_head=dict(
        type="mmdet.GFLHead",
        num_classes=None,  # as many as `classes`
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        anchor_generator=dict(
            type="mmdet.AnchorGenerator",
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(type="mmdet.DistancePointBBoxCoder"),
        loss_cls=dict(type="mmdet.QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type="mmdet.DistributionFocalLoss", loss_weight=0.25),
        reg_max=16,
        loss_bbox=dict(type="mmdet.GIoULoss", loss_weight=2.0),
    ),
    train_cfg=dict(
        assigner=dict(type="mmdet.ATSSAssigner", topk=9, iou_calculator=dict(type="mmdet.BboxOverlaps2D")),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.6), max_per_img=100
    ),
)
