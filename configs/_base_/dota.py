"""DOTA-v1.0 as the published rows use it: patches of 1024 with overlap 200, trained on train, tested on val."""

import os

_base_ = ["./views.py"]

data_root = "data/dota/"
classes = (
    "plane",
    "baseball-diamond",
    "bridge",
    "ground-track-field",
    "small-vehicle",
    "large-vehicle",
    "ship",
    "tennis-court",
    "basketball-court",
    "storage-tank",
    "soccer-ball-field",
    "roundabout",
    "harbor",
    "swimming-pool",
    "helicopter",
)
patch_size = 1024
patch_overlap = 200
# Built-in scenes that `make data` renders where no DOTA_ROOT is given.
scenes = dict(train=24, val=8, image_size=(1400, 1400), scale=1.0, seed=0)

# As many as keep a GPU busy, where there are cores: 28 ms an image. torchrun says how many processes share them.
_cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
_loaders = max(2, min(8, _cores - 1))
train_dataloader = dict(
    batch_size=2,
    num_workers=_loaders,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    batch_sampler=None,
    collate_fn=dict(type="collate_views"),
    dataset=dict(
        type="DotaPatchDataset",
        data_prefix=dict(img_path="train/images/"),
        ann_file="train/annfiles/",
        filter_cfg=dict(filter_empty_gt=True),
        pipeline={{_base_.train_pipeline}},
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="DotaPatchDataset",
        data_prefix=dict(img_path="val/images/"),
        ann_file="val/annfiles/",
        test_mode=True,
        pipeline={{_base_.test_pipeline}},
    ),
)
val_evaluator = dict(type="DotaDevkitMetric", label_folder="val/labelTxt/")
