"""GWD row, LD + KD with the teacher live in every step: the published way, the baseline that the cache is measured by.

Command: make train CONFIG=configs/live/gwd_r18_1x_dota.py
Hardware: published on 2 GPUs x 1 image; here one GPU x 2 images.
Published, DOTA val: AP 40.2, AP50 66.4, AP70 50.3, AP90 8.5.
Corrected for the published evaluator's carry-over: AP 37.5, AP50 66.4, AP70 46.4, AP90 7.2 (the last two are
estimates: they depend on AP65 and AP85, which were not published).
"""

_base_ = ["../plain/gwd_r18_1x_dota.py", "../_base_/distill.py"]

teacher = dict(config="configs/teacher/gwd_r34_2x_dota.py", checkpoint="work_dirs/teacher_gwd_r34_2x_dota/epoch_24.pth")
model = dict(type="LiveDistiller")
train_dataloader = dict(dataset=dict(pipeline={{_base_.live_pipeline}}))
work_dir = "work_dirs/live_gwd_r18_1x_dota"
