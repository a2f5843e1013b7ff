"""The demo's narrow model on DOTA itself: 15 classes, 1024 px patches, all five levels of the published grid."""

_base_ = ["./demo_model.py"]

model = dict(
    neck=dict(num_outs=5),
    bbox_head=dict(anchor_generator=dict(octave_base_scale=4, strides=[8, 16, 32, 64, 128])),
)
