"""configs/demo/dota_distill.py on one fixed batch: two patches, no flip, no warm-up, 20 steps.

Command: make distill CONFIG=configs/demo/dota_fixed_batch.py (reads the cache of dota_distill.py)
"""

_base_ = ["./dota_distill.py"]

train_pipeline = [
    dict(type="LoadPatch"),
    dict(type="mmdet.LoadAnnotations", with_bbox=True, box_type="qbox"),
    dict(type="ConvertBoxType", box_type_mapping=dict(gt_bboxes="rbox")),
    dict(type="RandomViewFlip", prob=0.0, direction="horizontal", flip_offset=1.0),
    dict(type="LoadTeacherTargets"),
    dict(type="PackDistillInputs"),
]
train_dataloader = dict(sampler=dict(shuffle=False), dataset=dict(pipeline=train_pipeline, indices=2))
work_dir = "work_dirs/demo_dota_fixed_batch"
