"""COCO 2017 with horizontal boxes: images of 1333 x 800 at most, trained on train2017, tested on val2017.

`data_root` holds train2017/, val2017/ and annotations/instances_{train,val}2017.json, as COCO's archives unpack.
"""

data_format = "coco"
data_root = "data/coco/"
classes = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich"),
    *("orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed"),
    *("dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven"),
    *("toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)

load = [
    dict(type="LoadPatch"),
    dict(type="mmdet.LoadAnnotations", with_bbox=True),
    dict(type="mmdet.Resize", scale=(1333, 800), keep_ratio=True),
]
# Two views, half each; ground truth flips as in mmdet 3.x (x -> W - x).
flip = dict(type="RandomViewFlip", prob=0.5, direction="horizontal", flip_offset=0.0)
train_pipeline = [*load, flip, dict(type="mmdet.PackDetInputs")]
# `make distill` says which cache.
distill_pipeline = [*load, flip, dict(type="LoadTeacherTargets"), dict(type="PackDistillInputs")]
live_pipeline = [*load, flip, dict(type="FindRegion"), dict(type="PackDistillInputs")]
test_pipeline = [
    dict(type="LoadPatch"),
    dict(type="mmdet.Resize", scale=(1333, 800), keep_ratio=True),
    # After the resizing: what is evaluated lies in the image as it is on disk.
    dict(type="mmdet.LoadAnnotations", with_bbox=True),
    dict(type="mmdet.PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    batch_sampler=dict(type="mmdet.AspectRatioBatchSampler"),
    collate_fn=dict(type="collate_views"),
    dataset=dict(
        type="CocoImageDataset",
        data_prefix=dict(img_path="train2017/"),
        ann_file="annotations/instances_train2017.json",
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CocoImageDataset",
        data_prefix=dict(img_path="val2017/"),
        ann_file="annotations/instances_val2017.json",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type="CocoBoxMetric", ann_file="annotations/instances_val2017.json")
