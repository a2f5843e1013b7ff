"""Checkpoints: loaded without running any code that they carry, and identified by their tensors."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor


def _history_statistic(owner: object, name: str) -> Any:
    """Stands in for `getattr`, by which mmengine's checkpoints name the statistics of a HistoryBuffer."""
    if owner is not HistoryBuffer or name not in ("mean", "max", "min", "current"):
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL getattr of {owner!r}")
    return getattr(HistoryBuffer, name)


# What mmengine's own training checkpoints hold beside tensors and plain values.
_ALLOWED = [
    HistoryBuffer,
    (_history_statistic, "builtins.getattr"),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64)},
    np._core.multiarray._reconstruct,
    np._core.multiarray.scalar,
    # The names under which NumPy 1 wrote them.
    (np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
]


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint on the CPU with `weights_only=True` and a short allow-list.

    Raises:
        ValueError: the file is missing, no checkpoint, or holds objects that loading it would have to execute.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"checkpoint {path} does not exist. Train the teacher with make teacher, or give CHECKPOINT=")
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        content = f"it would have to call {found.group(1)}" if found else str(error).splitlines()[0]
        raise ValueError(
            f"checkpoint {path} is refused: {content}. Only tensors and plain values are loaded; export its weights "
            "where it was made"
        ) from None
    except (RuntimeError, EOFError, KeyError, OSError) as error:
        raise ValueError(f"checkpoint {path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(checkpoint, dict):
        raise ValueError(f"checkpoint {path} holds a {type(checkpoint).__name__}; a dict with `state_dict` is needed")
    return checkpoint


def state_dict_of(checkpoint: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The weights of a loaded checkpoint.

    Raises:
        ValueError: there are none.
    """
    state = checkpoint.get("state_dict", checkpoint)
    weights = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not weights:
        raise ValueError(f"checkpoint {path} holds no weights (keys: {', '.join(map(str, list(checkpoint)[:8]))})")
    return weights


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of the tensors, in order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
