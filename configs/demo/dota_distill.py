"""A narrow R-18 student on DOTA at 1024 px, 20 steps from the cache.

Commands: make cache-teacher CONFIG=configs/demo/dota_distill.py, then make distill CONFIG=configs/demo/dota_distill.py
Shows that the path works on real images, not accuracy.
"""

_base_ = ["../_base_/dota.py", "../_base_/demo_dota_model.py", "../_base_/distill.py"]

teacher = dict(config="configs/demo/dota_teacher.py", checkpoint="work_dirs/demo_dota_teacher/iter_20.pth")
cache = "caches/demo_dota.zarr"

model = dict(type="CachedDistiller")
train_dataloader = dict(sampler=dict(type="InfiniteSampler"), dataset=dict(pipeline={{_base_.distill_pipeline}}))
train_cfg = dict(type="IterBasedTrainLoop", max_iters=20, val_begin=10000)  # make evaluate measures
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = []
default_hooks = dict(logger=dict(interval=1))
log_processor = dict(window_size=1)
work_dir = "work_dirs/demo_dota_distill"
