"""Distilled student of the demo with frozen draws of flips and random rotation: two lines more than without.

Its 600 steps of eight are 16 epochs, each of another draw; fewer: ARGS='--cfg-options views.draws=4'.
Commands: make cache-teacher CONFIG=configs/demo/rotation_distill.py, then make distill with the same CONFIG
"""

_base_ = ["./rotation_plain.py", "../_base_/distill.py"]

teacher = dict(config="configs/demo/rotation_teacher.py", checkpoint="work_dirs/demo_rotation_teacher/iter_900.pth")
cache = "caches/demo_rotation.zarr"
views = dict(draws=16, seed=0)

model = dict(type="CachedDistiller")
train_dataloader = dict(dataset=dict(pipeline={{_base_.distill_pipeline}}))
work_dir = "work_dirs/demo_rotation_distill"
