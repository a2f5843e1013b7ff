"""Teacher of the plain Rotated-RetinaNet row: R-34, distribution head, L1 on deltas, 24 epochs on DOTA-v1.0 train.

Command: make teacher TEACHER=configs/teacher/l1_r34_2x_dota.py
Hardware: published on 2 GPUs x 1 image; here one GPU x 2 images.
Published AP, AP50, AP70, AP90: none for teachers. The published repository has no config of this row either, and its
teacher's head cannot train with L1. Assignment by rotated IoU and L1 of weight 1 follow its Rotated-RetinaNet (OBB)
config; the loss is taken on the expected deltas, as its student's head does.
"""

_base_ = [
    "../_base_/runtime.py",
    "../_base_/dota.py",
    "../_base_/schedule_2x.py",
    "../_base_/rotated_retinanet_l1_r18.py",
]

model = dict(backbone=dict(depth=34, init_cfg=dict(checkpoint="torchvision://resnet34")))
work_dir = "work_dirs/teacher_l1_r34_2x_dota"
