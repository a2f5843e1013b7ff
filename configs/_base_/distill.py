"""What makes a plain student a distilled one: the published LD + KD, the region, and where the cache lies."""

# A student's config adds `teacher`, which `make cache-teacher` runs, and `cache`, the store that it fills.
region = dict(factor=0.25, topk=9)
# exact, half, default, small, or dtypes and steps: dict(_delete_=True, preset="small", cls_logits=0.125)
codec = "default"
# Which prior learns which object is stored as well: the training step computes no IoU.
plan_assignment = True
distillation = dict(
    type="RegionDistillation",
    loss_ld=dict(type="DistributionDistillationLoss", loss_weight=10.0, temperature=5.0),
    loss_kd=dict(type="DistributionDistillationLoss", loss_weight=20.0, temperature=5.0),
    normalizer="per_level",
)
