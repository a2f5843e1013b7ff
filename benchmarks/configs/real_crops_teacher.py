"""A narrow R-34 teacher with a 256-channel head and 15 classes on 16 real crops of 256 px, for `benchmarks.rate`.

It knows them by heart (AP50 0.96 on them, mean over the 13 classes present): what the logits of a teacher that detects
look like is wanted, not its accuracy elsewhere.
Data: python -m benchmarks.crops --sample <folder of real DOTA images>
Command: make teacher TEACHER=benchmarks/configs/real_crops_teacher.py; a quarter of an hour on one CPU core
"""

_base_ = ["../../configs/_base_/dota.py", "../../configs/_base_/demo_model.py"]

data_root = "data/real_crops/"
patch_size = 256
model = dict(
    backbone=dict(depth=34),
    neck=dict(out_channels=256, num_outs=4),
    bbox_head=dict(in_channels=256, feat_channels=256, anchor_generator=dict(strides=[8, 16, 32, 64])),
)
train_dataloader = dict(batch_size=8, num_workers=1, sampler=dict(type="InfiniteSampler"))
val_dataloader = dict(batch_size=4, num_workers=1, persistent_workers=False)
train_cfg = dict(type="IterBasedTrainLoop", max_iters=320, val_begin=100000)  # make evaluate measures
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=20, end=320, eta_min=0),
]
work_dir = "work_dirs/real_crops_teacher"
