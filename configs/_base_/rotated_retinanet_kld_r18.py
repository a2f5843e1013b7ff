"""Rotated RetinaNet, R-18, distribution head, KLD loss."""

_base_ = ["./rotated_retinanet_gwd_r18.py"]

model = dict(
    bbox_head=dict(
        # Ignores the common divisor: each level's loss is the mean over its own positives, as published.
        loss_bbox=dict(_delete_=True, type="GDLoss_v1", loss_type="kld", fun="log1p", tau=1, loss_weight=1.0)
    )
)
