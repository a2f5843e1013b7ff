"""DOTA-v1.0 split at rates 0.5, 1.0 and 1.5 with overlap 500, as mmrotate's ms_train.json, and random rotation.

Patches have 2048, 1024 or 682 pixels on disk and are resized to 1024. Flips as in views.py; then half of the patches
are turned by any angle, those with a round object by quarter turns alone: their labels are upright in any case.
Data: make data CONFIG=<a config of this> DOTA_ROOT=<DOTA>
"""

_base_ = ["./dota.py"]

data_root = "data/dota_ms/"
patch_overlap = 500
patch_rates = (0.5, 1.0, 1.5)

load = [
    dict(type="LoadPatch"),
    dict(type="mmdet.LoadAnnotations", with_bbox=True, box_type="qbox"),
    dict(type="ConvertBoxType", box_type_mapping=dict(gt_bboxes="rbox")),
    dict(type="mmdet.Resize", scale=(1024, 1024), keep_ratio=True),
]
augment = [
    {{_base_.flip}},
    # Storage tank and roundabout.
    dict(type="mmrotate.RandomRotate", prob=0.5, angle_range=180, rect_obj_labels=[9, 11]),
]
train_pipeline = [*load, *augment, dict(type="mmdet.PackDetInputs")]
# `make distill` says which cache.
distill_pipeline = [*load, *augment, dict(type="LoadTeacherTargets"), dict(type="PackDistillInputs")]
live_pipeline = [*load, *augment, dict(type="FindRegion"), dict(type="PackDistillInputs")]
test_pipeline = [
    dict(type="LoadPatch"),
    dict(type="mmdet.Resize", scale=(1024, 1024), keep_ratio=True),
    # After the resizing: what is evaluated lies in the image as it is on disk.
    dict(type="mmdet.LoadAnnotations", with_bbox=True, box_type="qbox"),
    dict(type="ConvertBoxType", box_type_mapping=dict(gt_bboxes="rbox")),
    dict(type="mmdet.PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
