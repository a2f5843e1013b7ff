"""How OpenMMLab is imported: without what it prints then, and without libraries that only a few of its parts use.

`pipelines/__init__.py` arranges it, so that it holds in every process of ours, loaders and workers among them.
"""

from __future__ import annotations

import gc
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

PACKAGES = ("mmengine", "mmcv", "mmdet", "mmrotate")
DEFERRED = ("imagecorruptions", "imgaug", "matplotlib", "torchvision")
"""What OpenMMLab imports at its start for two transforms, its drawings and one detector: a third of the time."""


def arrange_imports() -> None:
    """Import OpenMMLab that way from now on."""
    sys.meta_path.insert(0, _FINDER)
    # mmdet's own GFL head asks for it at every start.
    warnings.filterwarnings("ignore", message="DeprecationWarning: `num_anchors` is deprecated")


class _Finder(MetaPathFinder):
    """Finds modules of OpenMMLab, and stand-ins for what is deferred while such a module is being imported."""

    def __init__(self) -> None:
        self.importing = False

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package = name.partition(".")[0]
        if self.importing:
            return ModuleSpec(name, _StandInLoader(), is_package=True) if package in DEFERRED else None
        if package not in PACKAGES and name != "torch":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _ConciseLoader(spec.loader.name, spec.loader.path)
        return spec

    @contextmanager
    def importing_concisely(self) -> Iterator[None]:
        """Silence, stand-ins, and no garbage collection: it would look through all modules again and again."""
        collects = gc.isenabled()
        gc.disable()
        self.importing = True
        try:
            with redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            self.importing = False
            for name in [name for name, module in sys.modules.items() if isinstance(module, _StandIn)]:
                del sys.modules[name]
            if collects:
                # Nor later: modules stay.
                gc.freeze()
                gc.enable()


_FINDER = _Finder()


class _ConciseLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        with _FINDER.importing_concisely():
            super().exec_module(module)


class _StandInLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _StandIn(ModuleType):
    """A module that is imported when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = _StandInName(self.__name__, name)
        return found if _FINDER.importing else found.real()


class _StandInName:
    """What `from module import name` binds: called, or asked for an attribute, it is the real one."""

    def __init__(self, module: str, name: str) -> None:
        self.where = module, name

    def real(self) -> Any:
        module, name = self.where
        return getattr(import_module(module), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.real()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real(), name)
