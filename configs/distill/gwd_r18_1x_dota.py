"""GWD row, LD + KD from the cache: R-18 student of the R-34 teacher, 12 epochs on DOTA-v1.0 train.

Commands: make cache-teacher CHECKPOINT=<teacher.pth>, then make distill
Hardware: published on 2 GPUs x 1 image; here one GPU x 2 images.
Published with the teacher live, DOTA val: AP 40.2, AP50 66.4, AP70 50.3, AP90 8.5.
Corrected for the published evaluator's carry-over: AP 37.5, AP50 66.4, AP70 46.4, AP90 7.2 (the last two are
estimates: they depend on AP65 and AP85, which were not published).
"""

_base_ = ["../plain/gwd_r18_1x_dota.py", "../_base_/distill.py"]

teacher = dict(config="configs/teacher/gwd_r34_2x_dota.py", checkpoint="work_dirs/teacher_gwd_r34_2x_dota/epoch_24.pth")
cache = "caches/gwd_r34_dota.zarr"

model = dict(type="CachedDistiller")
train_dataloader = dict(dataset=dict(pipeline={{_base_.distill_pipeline}}))
work_dir = "work_dirs/distill_gwd_r18_1x_dota"
