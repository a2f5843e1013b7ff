"""A device that does not exist: tensors that claim to lie on cuda:0 and hold their numbers in this machine's memory.

A step runs there with the CPU's own arithmetic, forward, backward and optimiser, and everything that a real device
would make the host wait for is written down with the line of source that asked for it. What it cannot know is what a
compiled operator does inside; mmcv's focal loss asks whether there is a driver, and so mmdet's Python one runs.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from tests.conftest import REPOSITORY

DEVICE = torch.device("cuda", 0)
OURS = tuple(f"{REPOSITORY / name}/" for name in ("cache", "distill", "pipelines"))
LIBRARIES = ("mmengine", "mmcv", "mmdet", "mmrotate")

aten = torch.ops.aten
# What no device answers without its host waiting: the size of the result, or a number of Python's, depends on values.
WAITS = (
    *(aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.unique_consecutive, aten.unique_dim),
    *(aten._unique, aten._unique2, aten.bincount, aten.equal, aten._linalg_check_errors),
)
INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
COPIES = (aten._to_copy, aten.copy_)


class OnDevice(Tensor):
    """A tensor on the made-up device."""

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)

    def __repr__(self, **options: Any) -> str:
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"


class MadeUpDevice(TorchDispatchMode):
    """Runs what is called inside on the made-up device.

    waits: how often the host would have waited, by (who, file:line, operation); who is 'ours' or the library whose line
    it is. uploads: copies to the device that no host waits for. operations: all that ran there. pinned: tensors that
    were moved into pinned memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str, str]] = Counter()
        self.uploads: Counter[tuple[str, str, str]] = Counter()
        self.operations: Counter[str] = Counter()
        self.pinned = 0
        self._places = _Places(self)

    def __enter__(self) -> MadeUpDevice:
        self._overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        # A parameter keeps its class otherwise, and with it its device.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        self._places.__enter__()
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._places.__exit__(*exception)
        torch.__future__.set_overwrite_module_params_on_conversion(self._overwrites)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        flat = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        on_device = [tensor for tensor in flat if isinstance(tensor, OnDevice)]
        if on_device:
            self.operations[str(operation)] += 1
            self._judge(operation.overloadpacket, args, kwargs, flat)
        result = operation(*args, **kwargs)
        return tree_map_only(Tensor, mark, result) if on_device else result

    def _judge(self, operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], flat: Sequence[Tensor]) -> None:
        if operation in WAITS or (operation is aten.repeat_interleave and kwargs.get("output_size") is None):
            self.wait(operation)
        elif operation in INDEXED:
            indices = [index for index in args[1] if index is not None]
            one_number = operation is not aten.index and args[2].numel() == 1
            if torch._C._current_graph_task_id() < 0:
                # In a backward pass, C++ makes gradients where it believes that their tensors are.
                self._require_together(operation, [args[0], *args[2:3]])
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices) and not one_number:
                self.wait(f"{operation.__name__} by a mask")
            if not all(isinstance(index, OnDevice) for index in indices):
                self.wait(f"{operation.__name__}: upload of indices")
        elif operation is aten.copy_ and isinstance(args[0], OnDevice) and not isinstance(args[1], OnDevice):
            self.upload("copy_", (*args, *kwargs.values())[2:] == (True,))
        elif operation not in COPIES:
            self._require_together(operation, flat)

    def _require_together(self, operation: Any, operands: Sequence[Tensor]) -> None:
        away = [tensor for tensor in operands if tensor.dim() and not isinstance(tensor, OnDevice)]
        if away:
            raise RuntimeError(f"{operation}: operands on {DEVICE} and on the CPU {[tuple(x.shape) for x in away]}")

    def wait(self, what: Any) -> None:
        """Write down that the host waits for the device."""
        self.waits[*asked_by(), str(what)] += 1

    def upload(self, what: str, non_blocking: bool) -> None:
        """Write down a copy to the device; unless it is asked not to, the host waits for all that is queued before."""
        if non_blocking:
            self.uploads[*asked_by(), what] += 1
        else:
            self.wait(f"{what}: blocking upload")

    def ours(self) -> dict[str, int]:
        """Waits of this repository's own lines."""
        return {f"{line} {what}": count for (who, line, what), count in self.waits.items() if who == "ours"}

    def table(self) -> str:
        """All waits and uploads, most frequent first."""
        rows = [(count, "wait", *key) for key, count in self.waits.items()]
        rows += [(count, "upload", *key) for key, count in self.uploads.items()]
        lines = [
            f"{count:4d} {kind:6s} {who:9s} {line:60s} {what}" for count, kind, who, line, what in sorted(rows)[::-1]
        ]
        ours = sum(self.ours().values())
        lines.append(f"{sum(self.waits.values())} waits, {ours} ours; {sum(self.uploads.values())} uploads")
        return "\n".join(lines)


class _Places(TorchFunctionMode):
    """What Python says of devices, before C++ looks for a driver."""

    def __init__(self, device: MadeUpDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, function: Callable, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if name in _MOVES and args and isinstance(args[0], Tensor):
            return self._move(name, args, kwargs)
        if name == "one_hot" and isinstance(args[0], OnDevice):
            # C++ sees a CPU's labels, and reads their range.
            return mark(function(args[0].as_subclass(Tensor), *args[1:], **kwargs))
        if name in ("numpy", "__array__") and isinstance(args[0], OnDevice):
            raise TypeError(f"can't convert {DEVICE} tensor to numpy")
        if name == "tolist" and isinstance(args[0], OnDevice):
            self.device.wait("tolist")
        if name == "new_tensor" and isinstance(args[0], OnDevice):
            self.device.upload(name, False)
        wanted = kwargs.get("device")
        if wanted is None or torch.device(wanted).type != DEVICE.type:
            result = function(*args, **kwargs)
            # A copy of it made by Python forgets where it lies.
            return mark(result) if name in ("detach", "__deepcopy__") and isinstance(args[0], OnDevice) else result
        if name in ("tensor", "as_tensor", "asarray"):
            self.device.upload(name, False)
        return tree_map_only(Tensor, mark, function(*args, **{**kwargs, "device": "cpu"}))

    def _move(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        tensor, *rest = args
        if name in ("cpu", "cuda", "pin_memory"):
            target, dtype, non_blocking = torch.device("cpu" if name == "cpu" else DEVICE), None, False
            if name == "pin_memory":
                self.device.pinned += 1
                return tensor
        elif name in ("type_as", "to") and rest and isinstance(rest[0], Tensor):
            target, dtype, non_blocking = rest[0].device, rest[0].dtype, kwargs.get("non_blocking", False)
        else:
            target, dtype, non_blocking, _ = torch._C._nn._parse_to(*rest, **kwargs)
        is_there = isinstance(tensor, OnDevice)
        goes_there = is_there if target is None else target.type == DEVICE.type
        if is_there and not goes_there and sys._getframe(2).f_code.co_filename.endswith("torch/nn/utils/clip_grad.py"):
            # It moves a factor to where C++ says that the gradients are.
            return tensor
        if is_there and not goes_there:
            self.device.wait("copy to the host")
            tensor = tensor.as_subclass(Tensor)
        elif goes_there and not is_there:
            self.device.upload("to", non_blocking)
        result = tensor.to(dtype) if dtype is not None else tensor
        return mark(result.clone() if is_there != goes_there else result) if goes_there else result


_MOVES = ("to", "cpu", "cuda", "type_as", "pin_memory")


def mark(tensor: Tensor) -> Tensor:
    """The same numbers, on the device."""
    return tensor if isinstance(tensor, OnDevice) else tensor.as_subclass(OnDevice)


def asked_by() -> tuple[str, str]:
    """Whose line has led to what torch is doing, and which: the innermost one outside torch."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(OURS):
            return "ours", f"{Path(path).relative_to(REPOSITORY)}:{frame.f_lineno}"
        library = next((name for name in LIBRARIES if f"/site-packages/{name}/" in path), None)
        if library:
            return library, f"{path.rpartition('/site-packages/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "test", "?"
