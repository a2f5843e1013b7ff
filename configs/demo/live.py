"""The demo's student with the teacher live in every step: the oracle that the cached student is compared with.

Command: make train CONFIG=configs/demo/live.py
"""

_base_ = ["./plain.py", "../_base_/distill.py"]

teacher = dict(config="configs/demo/teacher.py", checkpoint="work_dirs/demo_teacher/iter_480.pth")
model = dict(type="LiveDistiller")
train_dataloader = dict(dataset=dict(pipeline={{_base_.live_pipeline}}))
work_dir = "work_dirs/demo_live"
