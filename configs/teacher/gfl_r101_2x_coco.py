"""Teacher of the COCO row: GFL, R-101, 24 epochs on COCO train2017, at one scale.

Command: make teacher TEACHER=configs/teacher/gfl_r101_2x_coco.py
Hardware: published on 8 GPUs x 2 images; here one GPU x 2 images, the rate scaled to that.
Published, COCO val2017: AP 44.7; AP50 and AP75: none stated with the weights.
The published weights were trained at several scales (1333 x 480 to 800), which this config does not repeat. It builds
their model, so that they can be cached as they are: give the file below as CHECKPOINT=.
"""

_base_ = [
    "../_base_/runtime.py",
    "../_base_/coco.py",
    "../_base_/schedule_coco_2x.py",
    "../_base_/gfl_r18.py",
]

# https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth
model = dict(
    backbone=dict(depth=101, init_cfg=dict(checkpoint="torchvision://resnet101")),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
work_dir = "work_dirs/teacher_gfl_r101_2x_coco"
