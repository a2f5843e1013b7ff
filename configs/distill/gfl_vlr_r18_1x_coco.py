"""COCO row, LD on main region and VLR and KD, from the cache: the original repository's losses.

Commands: make cache-teacher CONFIG=configs/distill/gfl_vlr_r18_1x_coco.py CHECKPOINT=<teacher.pth>, then
make distill CONFIG=configs/distill/gfl_vlr_r18_1x_coco.py
A student of configs/distill/gfl_r18_1x_coco.py can read this cache too: CACHE=caches/gfl_r101_vlr_coco.zarr
Hardware: one GPU x 2 images. Weights and temperatures are the defaults of the original head.
Published for this configuration: AP, AP50 and AP75: none stated.
"""

_base_ = ["../plain/gfl_r18_1x_coco.py", "../_base_/distill_gfl_vlr.py"]

teacher = dict(
    config="configs/teacher/gfl_r101_2x_coco.py", checkpoint="work_dirs/teacher_gfl_r101_2x_coco/epoch_24.pth"
)
cache = "caches/gfl_r101_vlr_coco.zarr"

model = dict(type="CachedDistiller", bbox_head=dict(type="GFLStudentHead"))
train_dataloader = dict(dataset=dict(pipeline={{_base_.distill_pipeline}}))
work_dir = "work_dirs/distill_gfl_vlr_r18_1x_coco"
