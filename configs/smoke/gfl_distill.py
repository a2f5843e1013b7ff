"""Distilled student of the smoke run with horizontal boxes: LD on main region and VLR, and KD, from the cache.

Command: make smoke runs it; alone: make cache-teacher CONFIG=configs/smoke/gfl_distill.py, then
make distill CONFIG=configs/smoke/gfl_distill.py
"""

_base_ = ["./gfl_plain.py", "../_base_/distill_gfl_vlr.py"]

teacher = dict(config="configs/smoke/gfl_teacher.py", checkpoint="work_dirs/smoke_gfl_teacher/iter_6.pth")
cache = "caches/smoke_gfl.zarr"

model = dict(type="CachedDistiller", bbox_head=dict(type="GFLStudentHead"))
train_dataloader = dict(dataset=dict(pipeline={{_base_.distill_pipeline}}))
work_dir = "work_dirs/smoke_gfl_distill"
