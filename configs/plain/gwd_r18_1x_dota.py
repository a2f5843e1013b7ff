"""Plain student of the GWD row: R-18 without teacher, 12 epochs on DOTA-v1.0 train.

Command: make train CONFIG=configs/plain/gwd_r18_1x_dota.py
Hardware: published on 2 GPUs x 1 image; here one GPU x 2 images.
Published, DOTA val: AP 37.1, AP50 63.1, AP70 46.7, AP90 6.2.
Corrected for the published evaluator's carry-over: AP 34.6, AP50 63.1, AP70 43.1, AP90 5.1 (the last two are
estimates: they depend on AP65 and AP85, which were not published).
"""

_base_ = [
    "../_base_/runtime.py",
    "../_base_/dota.py",
    "../_base_/schedule_1x.py",
    "../_base_/rotated_retinanet_gwd_r18.py",
]

# All patches have one size: a GPU's fastest algorithms are worth looking for, once.
env_cfg = dict(cudnn_benchmark=True)
work_dir = "work_dirs/plain_gwd_r18_1x_dota"
