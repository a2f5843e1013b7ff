"""Distilled student of the demo: the plain one with LD + KD from the cache, published weights.

Commands: make cache-teacher CONFIG=configs/demo/distill.py, then make distill CONFIG=configs/demo/distill.py
"""

_base_ = ["./plain.py", "../_base_/distill.py"]

teacher = dict(config="configs/demo/teacher.py", checkpoint="work_dirs/demo_teacher/iter_480.pth")
cache = "caches/demo.zarr"

model = dict(type="CachedDistiller")
train_dataloader = dict(dataset=dict(pipeline={{_base_.distill_pipeline}}))
work_dir = "work_dirs/demo_distill"
