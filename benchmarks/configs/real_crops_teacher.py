"""A narrow R-34 teacher with a 256-channel head on real crops of 256 px, for `benchmarks.rate`: all crops first.

real_crops_fine_teacher.py goes on with those of four images until it knows them by heart: what the logits of a teacher
that detects look like is wanted, not its accuracy. Data: make data CONFIG= this file DOTA_ROOT= a DOTA sample.
Command: make teacher TEACHER=benchmarks/configs/real_crops_teacher.py; about an hour on one CPU core
"""

_base_ = ["../../configs/_base_/dota.py", "../../configs/_base_/demo_model.py"]

data_root = "data/real_crops/"
patch_size = 256
patch_overlap = 64
model = dict(backbone=dict(depth=34), neck=dict(out_channels=256), bbox_head=dict(in_channels=256, feat_channels=256))
train_dataloader = dict(batch_size=4, num_workers=1, sampler=dict(type="InfiniteSampler"))
# It is measured on the crops that it was trained on.
val_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=False,
    dataset=dict(data_prefix=dict(img_path="train/images/"), ann_file="train/annfiles/"),
)
val_evaluator = dict(label_folder="train/labelTxt/")
train_cfg = dict(type="IterBasedTrainLoop", max_iters=2400, val_begin=100000)  # make evaluate measures
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=20, end=2400, eta_min=0),
]
work_dir = "work_dirs/real_crops_teacher"
