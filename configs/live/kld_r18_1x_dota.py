"""KLD loss, LD + KD with the teacher live in every step: the published way, the baseline that the cache is measured by.

Command: make train CONFIG=configs/live/kld_r18_1x_dota.py
Hardware: published on 2 GPUs x 1 image; here one GPU x 2 images.
Published AP, AP50, AP70, AP90: none; the published repository has this config (LD 15, KD 15) without figures.
"""

_base_ = ["../plain/kld_r18_1x_dota.py", "../_base_/distill_kld.py"]

teacher = dict(config="configs/teacher/kld_r34_2x_dota.py", checkpoint="work_dirs/teacher_kld_r34_2x_dota/epoch_24.pth")
model = dict(type="LiveDistiller")
train_dataloader = dict(dataset=dict(pipeline={{_base_.live_pipeline}}))
work_dir = "work_dirs/live_kld_r18_1x_dota"
