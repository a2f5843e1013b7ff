"""Distilled student of the COCO-format demo: the plain one with mmdet's LD from the cache.

It shows the path, not the method: with mmdet's weights 160 steps from scratch end below the plain student, live as well
(docs/benchmarks.md).

Commands: make cache-teacher CONFIG=configs/demo/gfl_distill.py, then make distill CONFIG=configs/demo/gfl_distill.py
"""

_base_ = ["./gfl_plain.py", "../_base_/distill_gfl.py"]

teacher = dict(config="configs/demo/gfl_teacher.py", checkpoint="work_dirs/demo_gfl_teacher/iter_320.pth")
cache = "caches/demo_gfl.zarr"

model = dict(type="CachedDistiller", bbox_head=dict(type="GFLStudentHead"))
train_dataloader = dict(dataset=dict(pipeline={{_base_.distill_pipeline}}))
work_dir = "work_dirs/demo_gfl_distill"
