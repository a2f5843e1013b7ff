"""Built-in scenes turned by any angle: the views of the study of frozen draws."""

_base_ = ["./demo_data.py"]

load = [
    dict(type="LoadPatch"),
    dict(type="mmdet.LoadAnnotations", with_bbox=True, box_type="qbox"),
    dict(type="ConvertBoxType", box_type_mapping=dict(gt_bboxes="rbox")),
]
augment = [{{_base_.flip}}, dict(type="mmrotate.RandomRotate", prob=0.5, angle_range=180)]
train_pipeline = [*load, *augment, dict(type="mmdet.PackDetInputs")]
distill_pipeline = [*load, *augment, dict(type="LoadTeacherTargets"), dict(type="PackDistillInputs")]
live_pipeline = [*load, *augment, dict(type="FindRegion"), dict(type="PackDistillInputs")]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
