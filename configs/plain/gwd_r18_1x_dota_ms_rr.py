"""Plain student of the GWD row with multi-scale patches and random rotation, drawn anew every epoch, 12 epochs.

Command: make train CONFIG=configs/plain/gwd_r18_1x_dota_ms_rr.py
Hardware: one GPU x 2 images.
Published AP, AP50, AP70, AP90: none; the recipe is that of mmrotate's model zoo.
"""

_base_ = [
    "../_base_/runtime.py",
    "../_base_/dota_ms.py",
    "../_base_/schedule_1x.py",
    "../_base_/rotated_retinanet_gwd_r18.py",
]

work_dir = "work_dirs/plain_gwd_r18_1x_dota_ms_rr"
