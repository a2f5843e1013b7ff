"""Plain Rotated-RetinaNet row, LD + KD with the teacher live in every step: the baseline that the cache is measured by.

Command: make train CONFIG=configs/live/l1_r18_1x_dota.py
Hardware: published on 2 GPUs x 1 image; here one GPU x 2 images.
Published, DOTA val: AP 39.1, AP50 63.8, AP70 48.8, AP90 8.8.
Corrected for the published evaluator's carry-over: AP 36.5, AP50 63.8, AP70 45.1, AP90 7.5 (the last two are
estimates: they depend on AP65 and AP85, which were not published).
The published repository has no config of this row. Assignment by rotated IoU and L1 of weight 1 follow its
Rotated-RetinaNet (OBB) config; LD 10, KD 20 and temperature 5 are the GWD row's, the only ones that the author names as
the paper's.
"""

_base_ = ["../plain/l1_r18_1x_dota.py", "../_base_/distill.py"]

teacher = dict(config="configs/teacher/l1_r34_2x_dota.py", checkpoint="work_dirs/teacher_l1_r34_2x_dota/epoch_24.pth")
model = dict(type="LiveDistiller")
train_dataloader = dict(dataset=dict(pipeline={{_base_.live_pipeline}}))
work_dir = "work_dirs/live_l1_r18_1x_dota"
