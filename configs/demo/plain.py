"""Plain student of the demo: a narrow R-18, 200 steps; the baseline of configs/demo/distill.py.

Command: make train CONFIG=configs/demo/plain.py
"""

_base_ = ["../_base_/demo_data.py", "../_base_/demo_model.py"]

train_cfg = dict(type="IterBasedTrainLoop", max_iters=200, val_begin=10000)  # make evaluate measures
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=20, end=200, eta_min=0),
]
work_dir = "work_dirs/demo_plain"
