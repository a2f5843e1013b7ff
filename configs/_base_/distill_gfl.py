"""What makes a plain GFL student a distilled one: mmdet's LD on the main region."""

region = dict(rule="atss_main", topk=9)
# exact, half, default, small, or any bound of the mean KL at T = 5: dict(kl=1e-5)
codec = "default"
# Which prior learns which object is stored as well: the training step assigns nothing.
plan_assignment = True
distillation = dict(
    type="MainRegionDistillation",
    loss_ld=dict(type="DistributionDistillationLoss", loss_weight=0.25, temperature=10.0),
)
