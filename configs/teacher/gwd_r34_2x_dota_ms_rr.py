"""Teacher of the GWD row with multi-scale patches and random rotation, 24 epochs.

Command: make teacher TEACHER=configs/teacher/gwd_r34_2x_dota_ms_rr.py
Hardware: one GPU x 2 images.
Published AP, AP50, AP70, AP90: none.
"""

_base_ = [
    "../_base_/runtime.py",
    "../_base_/dota_ms.py",
    "../_base_/schedule_2x.py",
    "../_base_/rotated_retinanet_gwd_r18.py",
]

model = dict(backbone=dict(depth=34, init_cfg=dict(checkpoint="torchvision://resnet34")))
work_dir = "work_dirs/teacher_gwd_r34_2x_dota_ms_rr"
