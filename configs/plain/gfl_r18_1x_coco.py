"""Plain student of the COCO row: GFL, R-18 without teacher, 12 epochs on COCO train2017.

Command: make train CONFIG=configs/plain/gfl_r18_1x_coco.py
Hardware: published with batches of 6 images; here one GPU x 2 images, the rate scaled to that.
Published, COCO val2017: AP 35.8; AP50 and AP75: none stated with it.
"""

_base_ = [
    "../_base_/runtime.py",
    "../_base_/coco.py",
    "../_base_/schedule_coco_1x.py",
    "../_base_/gfl_r18.py",
]

work_dir = "work_dirs/plain_gfl_r18_1x_coco"
