"""The student for the teacher of real crops: a narrow R-18, distilled from the cache on the same crops.

Commands: make cache-teacher CONFIG=benchmarks/configs/real_crops_distill.py, then make distill with the same CONFIG
"""

_base_ = ["../../configs/_base_/dota.py", "../../configs/_base_/demo_model.py", "../../configs/_base_/distill.py"]

data_root = "data/real_crops/"
patch_size = 256
teacher = dict(
    config="benchmarks/configs/real_crops_teacher.py", checkpoint="work_dirs/real_crops_teacher/iter_320.pth"
)
cache = "caches/real_crops.zarr"

model = dict(
    type="CachedDistiller",
    neck=dict(num_outs=4),
    bbox_head=dict(anchor_generator=dict(strides=[8, 16, 32, 64])),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    sampler=dict(type="InfiniteSampler"),
    dataset=dict(pipeline={{_base_.distill_pipeline}}),
)
val_dataloader = dict(batch_size=4, num_workers=1, persistent_workers=False)
train_cfg = dict(type="IterBasedTrainLoop", max_iters=150, val_begin=100000)  # make evaluate measures
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=20, end=150, eta_min=0),
]
work_dir = "work_dirs/real_crops_distill"
