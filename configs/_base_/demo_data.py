"""Built-in scenes of 128 px with five classes: everything at a size that two CPU cores train in minutes."""

_base_ = ["./dota.py"]

data_root = "data/demo/"
classes = ("plane", "ship", "large-vehicle", "tennis-court", "storage-tank")
patch_size = 128
patch_overlap = 32
scenes = dict(train=300, val=80, image_size=(128, 128), scale=0.45, seed=0)

train_dataloader = dict(batch_size=8, num_workers=1, sampler=dict(type="InfiniteSampler"))
val_dataloader = dict(batch_size=8, num_workers=1, persistent_workers=False)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
