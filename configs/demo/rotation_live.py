"""The same with the teacher live in every step, and rotation drawn anew every epoch.

Command: make train CONFIG=configs/demo/rotation_live.py
"""

_base_ = ["./rotation_plain.py", "../_base_/distill.py"]

teacher = dict(config="configs/demo/rotation_teacher.py", checkpoint="work_dirs/demo_rotation_teacher/iter_900.pth")
model = dict(type="LiveDistiller")
train_dataloader = dict(dataset=dict(pipeline={{_base_.live_pipeline}}))
work_dir = "work_dirs/demo_rotation_live"
