"""Plain student of the COCO-format demo: a narrow GFL, R-18, 160 steps of eight images of three sizes.

Command: make train CONFIG=configs/demo/gfl_plain.py
"""

_base_ = ["../_base_/demo_coco_data.py", "../_base_/demo_gfl_model.py"]

train_cfg = dict(type="IterBasedTrainLoop", max_iters=160, val_begin=10000)  # make evaluate measures
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=20, end=160, eta_min=0),
]
work_dir = "work_dirs/demo_gfl_plain"
