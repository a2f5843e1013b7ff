"""The teacher of real crops, trained on with those of four images (P0003, P0007, P0053, P0770) until it detects.

Command: make teacher TEACHER=benchmarks/configs/real_crops_fine_teacher.py; half an hour on one CPU core
"""

_base_ = ["./real_crops_teacher.py"]

data_root = "data/real_crops_fine/"
load_from = "work_dirs/real_crops_teacher/iter_2400.pth"
train_cfg = dict(max_iters=900)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=20, end=900, eta_min=0),
]
work_dir = "work_dirs/real_crops_fine_teacher"
