"""The original repository's recipe: LD on main region and VLR, KD on the main region."""

_base_ = ["./distill_gfl.py"]

region = dict(rule="atss_main_vlr", topk=9, factor=0.25)
distillation = dict(
    loss_ld_vlr=dict(type="DistributionDistillationLoss", loss_weight=0.25, temperature=10.0),
    loss_kd=dict(type="DistributionDistillationLoss", loss_weight=0.5, temperature=10.0),
)
