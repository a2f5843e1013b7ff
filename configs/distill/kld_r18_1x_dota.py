"""KLD loss, LD + KD from the cache: R-18 student of the R-34 teacher, 12 epochs on DOTA-v1.0 train.

Commands: make cache-teacher CONFIG=configs/distill/kld_r18_1x_dota.py CHECKPOINT=<teacher.pth>,
then make distill CONFIG=configs/distill/kld_r18_1x_dota.py
Hardware: published on 2 GPUs x 1 image; here one GPU x 2 images.
Published AP, AP50, AP70, AP90: none; the published repository has the live form (LD 15, KD 15) without figures.
"""

_base_ = ["../plain/kld_r18_1x_dota.py", "../_base_/distill_kld.py"]

teacher = dict(config="configs/teacher/kld_r34_2x_dota.py", checkpoint="work_dirs/teacher_kld_r34_2x_dota/epoch_24.pth")
cache = "caches/kld_r34_dota.zarr"

model = dict(type="CachedDistiller")
train_dataloader = dict(dataset=dict(pipeline={{_base_.distill_pipeline}}))
work_dir = "work_dirs/distill_kld_r18_1x_dota"
