"""Plain student of the plain Rotated-RetinaNet row: R-18 without teacher, 12 epochs on DOTA-v1.0 train.

Command: make train CONFIG=configs/plain/l1_r18_1x_dota.py
Hardware: published on 2 GPUs x 1 image; here one GPU x 2 images.
Published, DOTA val: AP 33.7, AP50 58.0, AP70 42.3, AP90 4.7.
Corrected for the published evaluator's carry-over: AP 31.5, AP50 58.0, AP70 39.0, AP90 3.8 (the last two are
estimates: they depend on AP65 and AP85, which were not published).
The published repository has no config of this row: assignment by rotated IoU and L1 of weight 1 on the expected deltas
follow its Rotated-RetinaNet (OBB) config; whether the published baseline has the distribution head is unknown.
"""

_base_ = [
    "../_base_/runtime.py",
    "../_base_/dota.py",
    "../_base_/schedule_1x.py",
    "../_base_/rotated_retinanet_l1_r18.py",
]

# All patches have one size: a GPU's fastest algorithms are worth looking for, once.
env_cfg = dict(cudnn_benchmark=True)
work_dir = "work_dirs/plain_l1_r18_1x_dota"
