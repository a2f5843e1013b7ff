"""Teacher of the smoke run: the smallest Rotated RetinaNet that has every part, R-34.

Command: make smoke runs it; alone: make teacher TEACHER=configs/smoke/teacher.py
"""

_base_ = ["../_base_/smoke.py"]

model = dict(backbone=dict(depth=34))
work_dir = "work_dirs/smoke_teacher"
