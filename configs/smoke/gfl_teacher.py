"""Teacher of the smoke run with horizontal boxes: a GFL, R-34.

Command: make smoke runs it; alone: make teacher TEACHER=configs/smoke/gfl_teacher.py
"""

_base_ = ["../_base_/smoke_gfl.py"]

model = dict(backbone=dict(depth=34))
work_dir = "work_dirs/smoke_gfl_teacher"
