"""COCO-format demo with LD on main region and VLR and KD: the cache that all GFL students of the demo can share.

Commands: make cache-teacher CONFIG=configs/demo/gfl_vlr_distill.py, then
make distill CONFIG=configs/demo/gfl_vlr_distill.py
"""

_base_ = ["./gfl_plain.py", "../_base_/distill_gfl_vlr.py"]

teacher = dict(config="configs/demo/gfl_teacher.py", checkpoint="work_dirs/demo_gfl_teacher/iter_320.pth")
cache = "caches/demo_gfl_vlr.zarr"

model = dict(type="CachedDistiller", bbox_head=dict(type="GFLStudentHead"))
train_dataloader = dict(dataset=dict(pipeline={{_base_.distill_pipeline}}))
work_dir = "work_dirs/demo_gfl_vlr_distill"
