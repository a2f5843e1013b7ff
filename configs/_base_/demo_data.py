"""Built-in scenes of 128 px with five classes: everything at a size that two CPU cores train in minutes."""

data_root = "data/demo/"
classes = ("plane", "ship", "large-vehicle", "tennis-court", "storage-tank")
patch_size = 128
patch_overlap = 32
scenes = dict(train=300, val=80, image_size=(128, 128), scale=0.45, seed=0)

flip = dict(
    type="RandomViewFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"], flip_offset=1.0
)
train_pipeline = [
    dict(type="LoadPatch"),
    dict(type="mmdet.LoadAnnotations", with_bbox=True, box_type="qbox"),
    dict(type="ConvertBoxType", box_type_mapping=dict(gt_bboxes="rbox")),
    flip,
    dict(type="mmdet.PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadPatch"),
    dict(type="mmdet.LoadAnnotations", with_bbox=True, box_type="qbox"),
    dict(type="ConvertBoxType", box_type_mapping=dict(gt_bboxes="rbox")),
    dict(type="mmdet.PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="DotaPatchDataset",
        data_root=data_root,
        data_prefix=dict(img_path="train/images/"),
        ann_file="train/annfiles/",
        metainfo=dict(classes=classes),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="DotaPatchDataset",
        data_root=data_root,
        data_prefix=dict(img_path="val/images/"),
        ann_file="val/annfiles/",
        metainfo=dict(classes=classes),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="DotaDevkitMetric", label_folder=data_root + "val/labelTxt/")
test_evaluator = val_evaluator
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
