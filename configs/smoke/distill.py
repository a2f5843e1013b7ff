"""Distilled student of the smoke run: the plain one with LD + KD from the cache.

Command: make smoke runs it; alone: make cache-teacher CONFIG=configs/smoke/distill.py, then
make distill CONFIG=configs/smoke/distill.py
"""

_base_ = ["./plain.py", "../_base_/distill.py"]

teacher = dict(config="configs/smoke/teacher.py", checkpoint="work_dirs/smoke_teacher/iter_6.pth")
cache = "caches/smoke.zarr"

model = dict(type="CachedDistiller")
train_dataloader = dict(dataset=dict(pipeline={{_base_.distill_pipeline}}))
work_dir = "work_dirs/smoke_distill"
