"""Teacher of the demo: a narrow R-34, 480 steps of eight 128 px patches; about two minutes on two CPU cores.

Command: make teacher TEACHER=configs/demo/teacher.py
"""

_base_ = ["../_base_/demo_data.py", "../_base_/demo_model.py"]

model = dict(backbone=dict(depth=34))
train_cfg = dict(type="IterBasedTrainLoop", max_iters=480, val_begin=10000)  # make evaluate measures
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=20, end=480, eta_min=0),
]
work_dir = "work_dirs/demo_teacher"
