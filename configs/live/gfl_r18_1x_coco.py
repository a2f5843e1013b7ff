"""COCO row, LD with the teacher live in every step: what mmdet's LDHead does, through the same loss as the cached row.

Command: make train CONFIG=configs/live/gfl_r18_1x_coco.py
Hardware: published with batches of 6 images; here one GPU x 2 images, the rate scaled to that.
Published (mmdet's configs/ld), COCO val2017: AP 36.5; AP50 and AP75: none stated with it.
"""

_base_ = ["../plain/gfl_r18_1x_coco.py", "../_base_/distill_gfl.py"]

teacher = dict(
    config="configs/teacher/gfl_r101_2x_coco.py", checkpoint="work_dirs/teacher_gfl_r101_2x_coco/epoch_24.pth"
)
model = dict(
    type="LiveDistiller",
    bbox_head=dict(type="GFLStudentHead"),
)
train_dataloader = dict(dataset=dict(pipeline={{_base_.live_pipeline}}))
work_dir = "work_dirs/live_gfl_r18_1x_coco"
