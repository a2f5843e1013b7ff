"""Checkpoints: loaded without running any code that they carry, and identified by their tensors."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader, get_torchvision_models
from numpy._core import multiarray
from torch import Tensor, nn

from cache.manifest import differences


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
    multiarray._reconstruct,
    multiarray.scalar,
    # The names under which NumPy 1 wrote them.
    (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
]


def load_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Load a checkpoint with `weights_only=True` and a short allow-list.

    Raises:
        ValueError: the file is missing, no checkpoint, or holds objects that loading it would have to execute.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"checkpoint {path} does not exist")
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise ValueError(f"checkpoint {path} cannot be read: it is damaged, or no checkpoint") from None
        raise ValueError(
            f"checkpoint {path} is refused: it would have to call {found.group(1)}. Only tensors and plain values are "
            "loaded; export its weights where it was made"
        ) from None
    except OSError as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error.strerror or error}") from None
    except Exception:
        # Bytes of something else are taken for a pickle, which ends in an error of any kind.
        raise ValueError(f"checkpoint {path} cannot be read: it is damaged, or no checkpoint") from None
    if not isinstance(checkpoint, dict):
        raise ValueError(f"checkpoint {path} holds a {type(checkpoint).__name__}; a dict with `state_dict` is needed")
    return checkpoint


def use_safe_loading() -> None:
    """Let mmengine load every checkpoint (resume, load_from, pretrained backbones) by `load_checkpoint`.

    Its own loader falls back to full unpickling where `weights_only=True` fails, which runs whatever a file carries.
    Schemes other than files, http and torchvision:// are refused.
    """
    CheckpointLoader.register_scheme("", load_checkpoint, force=True)
    CheckpointLoader.register_scheme(("http://", "https://"), _load_from_url, force=True)
    CheckpointLoader.register_scheme("torchvision://", _load_from_torchvision, force=True)
    for prefix in set(CheckpointLoader._schemes) - {"", "http://", "https://", "torchvision://"}:
        CheckpointLoader.register_scheme(prefix, _refuse_scheme, force=True)


def _load_from_url(url: str, map_location: Any = "cpu") -> dict[str, Any]:
    """Download into torch's checkpoint folder, unless it is there, and load."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    return load_checkpoint(path, map_location)


def _load_from_torchvision(name: str, map_location: Any = "cpu") -> dict[str, Any]:
    urls = get_torchvision_models()
    model = name.removeprefix("torchvision://")
    if model not in urls:
        raise ValueError(f"torchvision has no weights named {model!r}; give a file instead")
    return _load_from_url(urls[model], map_location)


def _refuse_scheme(name: str, map_location: Any = "cpu") -> dict[str, Any]:
    raise ValueError(f"checkpoint {name}: only files, http(s):// and torchvision:// are loaded")


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


def load_weights(model: nn.Module, state: Mapping[str, Tensor], path: str | Path, option: str) -> None:
    """Load all weights of a checkpoint into a model, none missing and none left over.

    `option` is how a user gives another config of the model.

    Raises:
        ValueError: weights of another model.
    """
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in state.items()}
    difference = next(differences(ours, theirs), None)
    if difference is not None:
        name, wanted, found = difference
        raise ValueError(
            f"checkpoint {path} does not fit its config: {name} is {found} in the checkpoint but {wanted} in the "
            f"config's model. Give the config that it was trained with ({option})"
        )
    model.load_state_dict(state)


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of the tensors, in order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
