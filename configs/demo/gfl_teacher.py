"""Teacher of the COCO-format demo: a narrow GFL, R-34, 320 steps of eight images of three sizes.

Command: make teacher TEACHER=configs/demo/gfl_teacher.py
"""

_base_ = ["../_base_/demo_coco_data.py", "../_base_/demo_gfl_model.py"]

model = dict(backbone=dict(depth=34))
train_cfg = dict(type="IterBasedTrainLoop", max_iters=320, val_begin=10000)  # make evaluate measures
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=20, end=320, eta_min=0),
]
work_dir = "work_dirs/demo_gfl_teacher"
