"""COCO row, LD from the cache: GFL R-18 student of the GFL R-101 teacher, 12 epochs on COCO train2017.

Commands: make cache-teacher CONFIG=configs/distill/gfl_r18_1x_coco.py CHECKPOINT=<teacher.pth>, then
make distill CONFIG=configs/distill/gfl_r18_1x_coco.py
Hardware: published with batches of 6 images; here one GPU x 2 images, the rate scaled to that.
Published with the teacher live (mmdet's configs/ld), COCO val2017: AP 36.5; AP50 and AP75: none stated with it.
"""

_base_ = ["../plain/gfl_r18_1x_coco.py", "../_base_/distill_gfl.py"]

teacher = dict(
    config="configs/teacher/gfl_r101_2x_coco.py", checkpoint="work_dirs/teacher_gfl_r101_2x_coco/epoch_24.pth"
)
cache = "caches/gfl_r101_coco.zarr"

model = dict(type="CachedDistiller", bbox_head=dict(type="GFLStudentHead"))
train_dataloader = dict(dataset=dict(pipeline={{_base_.distill_pipeline}}))
work_dir = "work_dirs/distill_gfl_r18_1x_coco"
