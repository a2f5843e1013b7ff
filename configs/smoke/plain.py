"""Plain student of the smoke run.

Command: make smoke runs it; alone: make train CONFIG=configs/smoke/plain.py
"""

_base_ = ["../_base_/smoke.py"]

work_dir = "work_dirs/smoke_plain"
