"""A narrow R-34 teacher on DOTA at 1024 px, 20 steps: shows that the path works on real images, not accuracy.

Command: make teacher TEACHER=configs/demo/dota_teacher.py; about five minutes on two CPU cores
"""

_base_ = ["../_base_/dota.py", "../_base_/demo_dota_model.py"]

model = dict(backbone=dict(depth=34))
train_dataloader = dict(sampler=dict(type="InfiniteSampler"))
train_cfg = dict(type="IterBasedTrainLoop", max_iters=20, val_begin=10000)  # make evaluate measures
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=5)]
default_hooks = dict(logger=dict(interval=1))
log_processor = dict(window_size=1)
work_dir = "work_dirs/demo_dota_teacher"
