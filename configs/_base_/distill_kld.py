"""LD and KD as the published KLD student weighs them."""

_base_ = ["./distill.py"]

distillation = dict(loss_ld=dict(loss_weight=15.0), loss_kd=dict(loss_weight=15.0))
