"""Teacher of the demo with flips and random rotation, 900 steps.

Command: make teacher TEACHER=configs/demo/rotation_teacher.py
"""

_base_ = ["../_base_/demo_rotation.py", "../_base_/demo_model.py"]

model = dict(backbone=dict(depth=34))
train_cfg = dict(type="IterBasedTrainLoop", max_iters=900, val_begin=10000)  # make evaluate measures
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=20, end=900, eta_min=0),
]
work_dir = "work_dirs/demo_rotation_teacher"
