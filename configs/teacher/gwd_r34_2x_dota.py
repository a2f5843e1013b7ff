"""Teacher of the GWD row: Rotated RetinaNet, R-34, distribution head, GWD loss, 24 epochs on DOTA-v1.0 train.

Command: make teacher CONFIG=configs/teacher/gwd_r34_2x_dota.py
Published hardware: 2 GPUs x 1 image. The teacher's own AP was not published.
"""

_base_ = [
    "../_base_/runtime.py",
    "../_base_/dota.py",
    "../_base_/schedule_2x.py",
    "../_base_/rotated_retinanet_gwd_r18.py",
]

model = dict(backbone=dict(depth=34, init_cfg=dict(checkpoint="torchvision://resnet34")))
work_dir = "work_dirs/teacher_gwd_r34_2x_dota"
