"""The four views of a patch, 25 % each, and how they are loaded: plain, with the teacher's targets, and for testing."""

# Ground truth flips as in mmrotate 0.x (x -> W - 1 - x).
flip = dict(
    type="RandomViewFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"], flip_offset=1.0
)
load = [
    dict(type="LoadPatch"),
    dict(type="mmdet.LoadAnnotations", with_bbox=True, box_type="qbox"),
    dict(type="ConvertBoxType", box_type_mapping=dict(gt_bboxes="rbox")),
]
train_pipeline = [*load, flip, dict(type="mmdet.PackDetInputs")]
# `make distill` says which cache.
distill_pipeline = [*load, flip, dict(type="LoadTeacherTargets"), dict(type="PackDistillInputs")]
live_pipeline = [*load, flip, dict(type="FindRegion"), dict(type="PackDistillInputs")]
test_pipeline = [
    *load,
    dict(type="mmdet.PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
