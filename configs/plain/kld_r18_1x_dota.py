"""Plain student with the KLD loss: R-18 without teacher, 12 epochs on DOTA-v1.0 train.

Command: make train CONFIG=configs/plain/kld_r18_1x_dota.py
Hardware: published on 2 GPUs x 1 image; here one GPU x 2 images.
Published AP, AP50, AP70, AP90: none; the published repository has the teacher and the distilled student of this loss
without figures, and no plain student.
"""

_base_ = [
    "../_base_/runtime.py",
    "../_base_/dota.py",
    "../_base_/schedule_1x.py",
    "../_base_/rotated_retinanet_kld_r18.py",
]

# All patches have one size: a GPU's fastest algorithms are worth looking for, once.
env_cfg = dict(cudnn_benchmark=True)
work_dir = "work_dirs/plain_kld_r18_1x_dota"
