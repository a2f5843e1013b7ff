"""Built-in scenes in COCO's format: three sizes, five classes, horizontal boxes; small enough for two CPU cores."""

_base_ = ["./coco.py"]

data_root = "data/demo_coco/"
classes = ("plane", "ship", "large-vehicle", "tennis-court", "storage-tank")
# (width, height). The last is resized to 124 x 160, the others keep their size.
scenes = dict(train=300, val=80, image_sizes=((128, 128), (160, 128), (112, 144)), scale=0.45, seed=0)

load = [
    dict(type="LoadPatch"),
    dict(type="mmdet.LoadAnnotations", with_bbox=True),
    dict(type="mmdet.Resize", scale=(160, 128), keep_ratio=True),
]
flip = dict(type="RandomViewFlip", prob=0.5, direction="horizontal", flip_offset=0.0)
train_pipeline = [*load, flip, dict(type="mmdet.PackDetInputs")]
distill_pipeline = [*load, flip, dict(type="LoadTeacherTargets"), dict(type="PackDistillInputs")]
live_pipeline = [*load, flip, dict(type="FindRegion"), dict(type="PackDistillInputs")]
test_pipeline = [
    dict(type="LoadPatch"),
    dict(type="mmdet.Resize", scale=(160, 128), keep_ratio=True),
    dict(type="mmdet.LoadAnnotations", with_bbox=True),
    dict(type="mmdet.PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    sampler=dict(type="InfiniteSampler"),
    batch_sampler=None,
    dataset=dict(
        data_prefix=dict(img_path="train/images/"),
        ann_file="annotations/instances_train.json",
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=False,
    dataset=dict(
        data_prefix=dict(img_path="val/images/"),
        ann_file="annotations/instances_val.json",
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(ann_file="annotations/instances_val.json")
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
