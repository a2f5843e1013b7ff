"""GWD row, LD + KD from the cache, with multi-scale patches and twelve frozen draws of flips and rotation a patch.

Each of the 12 epochs sees another draw. Commands: make cache-teacher CONFIG=configs/distill/gwd_r18_1x_dota_ms_rr.py
CHECKPOINT=<teacher.pth>, then make distill CONFIG=configs/distill/gwd_r18_1x_dota_ms_rr.py
Hardware: one GPU x 2 images.
Published AP, AP50, AP70, AP90: none; the recipe is that of mmrotate's model zoo.
"""

_base_ = ["../plain/gwd_r18_1x_dota_ms_rr.py", "../_base_/distill.py"]

teacher = dict(
    config="configs/teacher/gwd_r34_2x_dota_ms_rr.py", checkpoint="work_dirs/teacher_gwd_r34_2x_dota_ms_rr/epoch_24.pth"
)
cache = "caches/gwd_r34_dota_ms_rr.zarr"
codec = "small"
views = dict(draws=12, seed=0)

model = dict(type="CachedDistiller")
train_dataloader = dict(dataset=dict(pipeline={{_base_.distill_pipeline}}))
work_dir = "work_dirs/distill_gwd_r18_1x_dota_ms_rr"
