"""GWD row, LD + KD with the teacher live, multi-scale patches and random rotation, drawn anew every epoch.

Command: make train CONFIG=configs/live/gwd_r18_1x_dota_ms_rr.py
Hardware: one GPU x 2 images.
Published AP, AP50, AP70, AP90: none; the recipe is that of mmrotate's model zoo.
"""

_base_ = ["../plain/gwd_r18_1x_dota_ms_rr.py", "../_base_/distill.py"]

teacher = dict(
    config="configs/teacher/gwd_r34_2x_dota_ms_rr.py", checkpoint="work_dirs/teacher_gwd_r34_2x_dota_ms_rr/epoch_24.pth"
)
model = dict(type="LiveDistiller")
train_dataloader = dict(dataset=dict(pipeline={{_base_.live_pipeline}}))
work_dir = "work_dirs/live_gwd_r18_1x_dota_ms_rr"
