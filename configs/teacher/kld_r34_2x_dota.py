"""Teacher for the KLD students: Rotated RetinaNet, R-34, distribution head, KLD loss, 24 epochs on DOTA-v1.0 train.

Command: make teacher TEACHER=configs/teacher/kld_r34_2x_dota.py
Hardware: published on 2 GPUs x 1 image; here one GPU x 2 images.
Published AP, AP50, AP70, AP90: none; the published repository has this config without figures.
"""

_base_ = [
    "../_base_/runtime.py",
    "../_base_/dota.py",
    "../_base_/schedule_2x.py",
    "../_base_/rotated_retinanet_kld_r18.py",
]

model = dict(backbone=dict(depth=34, init_cfg=dict(checkpoint="torchvision://resnet34")))
work_dir = "work_dirs/teacher_kld_r34_2x_dota"
