"""Rotated RetinaNet, R-18, distribution head, L1 loss on deltas, rotated IoU for assignment: the plain detector."""

_base_ = ["./rotated_retinanet_gwd_r18.py"]

model = dict(
    bbox_head=dict(
        # L1 sees the angle itself, so targets must be those of mmrotate 0.x: (0, pi/2], not [-pi/2, 0).
        bbox_coder=dict(type="LegacyDeltaXYWHTRBBoxCoder"),
        reg_decoded_bbox=False,
        loss_bbox=dict(_delete_=True, type="mmdet.L1Loss", loss_weight=1.0),
    ),
    train_cfg=dict(assigner=dict(iou_calculator=dict(type="RBboxOverlaps2D"))),
)
