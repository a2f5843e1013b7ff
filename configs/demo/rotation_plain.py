"""The demo's plain student with flips and random rotation by any angle, drawn anew every epoch; 600 steps.

Command: make train CONFIG=configs/demo/rotation_plain.py
"""

_base_ = ["../_base_/demo_rotation.py", "../_base_/demo_model.py"]

train_cfg = dict(type="IterBasedTrainLoop", max_iters=600, val_begin=10000)  # make evaluate measures
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=20, end=600, eta_min=0),
]
work_dir = "work_dirs/demo_rotation_plain"
