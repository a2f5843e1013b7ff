"""Spread of a figure over seeds, and paired differences between students of the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

# SciPy comes with mmdetection; the standard library has no quantile of Student's t.
from scipy.special import stdtrit

CONFIDENCE = 0.95


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation of a single run (n - 1), and the values in the order of the seeds."""
    return {"mean": fmean(values), "sd": stdev(values), "values": list(values)}


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Differences seed by seed: `spread`, and Student's interval of their mean."""
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    summary = spread(differences)
    quantile = float(stdtrit(len(differences) - 1, (1 + CONFIDENCE) / 2))
    margin = quantile * summary["sd"] / len(differences) ** 0.5
    return {**summary, "low": summary["mean"] - margin, "high": summary["mean"] + margin}


def verdict(difference: Mapping[str, Any], name: str) -> str:
    """One difference of AP in words; `name` is a column of AP, `difference` has `paired` of it."""
    figures = difference[name]
    sense = "above 0" if figures["low"] > 0 else "below 0" if figures["high"] < 0 else "not distinguishable from 0"
    # Adding 0.0 turns -0.0 into 0.0.
    mean, low, high = (f"{round(100 * figures[end], 1) + 0.0:+.1f}" for end in ("mean", "low", "high"))
    return f"{difference['name']}, {name}: {mean} [{low}, {high}] points, {sense}"
