"""GWD row with KD alone: configs/distill/gwd_r18_1x_dota.py without LD, from the same cache.

Command: make distill CONFIG=configs/distill/gwd_kd_only_r18_1x_dota.py
Hardware: published on 2 GPUs x 1 image; here one GPU x 2 images.
Published AP, AP50, AP70, AP90: none for one term alone on this row. Expect an AP between the plain student's, 37.1
(34.6 corrected), and the one of both terms, 40.2 (37.5 corrected).
"""

_base_ = ["./gwd_r18_1x_dota.py"]

distillation = dict(loss_ld=None)
work_dir = "work_dirs/distill_gwd_kd_only_r18_1x_dota"
