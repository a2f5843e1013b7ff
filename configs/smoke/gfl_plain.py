"""Plain student of the smoke run with horizontal boxes.

Command: make smoke runs it; alone: make train CONFIG=configs/smoke/gfl_plain.py
"""

_base_ = ["../_base_/smoke_gfl.py"]

work_dir = "work_dirs/smoke_gfl_plain"
