"""Imports whatever of this package a config may name: `custom_imports` of configs/_base_/runtime.py."""

from distill import (  # noqa: F401
    assign,
    audit,
    coco,
    coder,
    datasets,
    detectors,
    gfl,
    heads,
    losses,
    metric,
    targets,
    transforms,
)
