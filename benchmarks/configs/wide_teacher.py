"""The demo's teacher with the 256 channels of a published FPN and head, for `benchmarks.rate`.

Command: make teacher TEACHER=benchmarks/configs/wide_teacher.py; about ten minutes on two CPU cores
"""

_base_ = ["../../configs/demo/teacher.py"]

model = dict(neck=dict(out_channels=256), bbox_head=dict(in_channels=256, feat_channels=256))
work_dir = "work_dirs/wide_teacher"
