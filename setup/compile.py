"""Compiles mmcv's operators from the sources that the installed mmcv brings: `python -m setup.compile KIND FOLDER`.

Runs in .venv, for torch says how its extensions are compiled. `all` and `cuda` are what mmcv's own setup.py makes.
`small` is one file: the sources of the operators that our commands run on a CPU, bound by mmcv's own lines of
pybind.cpp, and for every other operator a function that raises. FOLDER gets `_ext.*.so`; what ninja leaves there lets
an interrupted compilation go on.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import sys
from pathlib import Path

import setuptools
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

SMALL = {
    "info": ("get_compiler_version", "get_compiling_cuda_version"),
    "nms": ("nms", "softnms", "nms_match"),
    "nms_rotated": ("nms_rotated",),
    "box_iou_rotated": ("box_iou_rotated",),
}
"""Sources of the small build under mmcv/ops/csrc/pytorch, with the operators that each defines."""

_FLAGS = ["-std=c++17", "-g0"]


def main(kind: str, folder: Path) -> None:
    sources = Path(importlib.util.find_spec("mmcv").origin).parent / "ops/csrc"
    # Not where pyproject.toml lies: setuptools would take it for this extension's.
    os.chdir(folder)
    extension = {"small": small_extension, "all": cpu_extension, "cuda": cuda_extension}[kind](sources)
    setuptools.setup(
        name="mmcv-operators",
        ext_modules=[extension],
        cmdclass={"build_ext": BuildExtension},
        script_args=["build_ext", "--build-lib", str(folder), "--build-temp", str(folder / "objects")],
    )
    require_loadable(folder)


def small_extension(sources: Path) -> setuptools.Extension:
    Path("small.cpp").write_text(small_source((sources / "pytorch/pybind.cpp").read_text(), sources))
    folders = [str(sources), str(sources / "common")]
    return CppExtension("_ext", ["small.cpp"], include_dirs=folders, extra_compile_args=_FLAGS)


def small_source(pybind: str, sources: Path) -> str:
    """The C++ file of the small build, from mmcv's binding of all operators."""
    declarations, _, bindings = pybind.partition("PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {")
    binding = {re.match(r'm\.def\(\s*"(\w+)"', text)[1]: text for text in re.findall(r"m\.def\(.*?\);", bindings, re.S)}
    built = [binding.pop(name) for names in SMALL.values() for name in names]
    files = [f"pytorch/{device}{name}.cpp" for name in SMALL for device in ("", "cpu/")]
    return _SMALL_SOURCE.format(
        # torch/extension.h is all of torch's C++ interface, and half of the compiler's time.
        declarations=declarations.replace("torch/extension.h", "torch/csrc/utils/pybind.h"),
        includes="\n".join(f'#include "{file}"' for file in files if (sources / file).exists()),
        built="\n  ".join(built),
        not_built=", ".join(f'"{name}"' for name in binding),
    )


_SMALL_SOURCE = """\
{declarations}
{includes}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {{
  {built}
  for (const std::string name : {{{not_built}}}) {{
    m.attr(name.c_str()) = py::cpp_function(
        [name](py::args, py::kwargs) {{
          throw py::value_error("mmcv's operator " + name + " is not built in this environment: "
                                "`make setup OPS=all` builds all of them");
        }},
        py::name(name.c_str()));
  }}
}}
"""


def cpu_extension(sources: Path) -> setuptools.Extension:
    return CppExtension(
        "_ext",
        _files(sources, "pytorch/*.cpp", "pytorch/cpu/*.cpp"),
        include_dirs=[str(sources / "common")],
        extra_compile_args=_FLAGS,
    )


def cuda_extension(sources: Path) -> setuptools.Extension:
    extension = CUDAExtension(
        "_ext",
        _files(sources, "pytorch/*.cpp", "pytorch/cpu/*.cpp", "pytorch/cuda/*.cpp", "pytorch/cuda/*.cu"),
        include_dirs=[str(sources / folder) for folder in ("pytorch", "common", "common/cuda")],
        define_macros=[("MMCV_WITH_CUDA", None)],
        extra_compile_args={"cxx": _FLAGS, "nvcc": ["-std=c++17"]},
    )
    # For a toolkit of nvcc and its runtime alone: the headers of cuBLAS and the like came with torch.
    extension.include_dirs += [str(path) for path in sources.parents[2].glob("nvidia/cu*/include")]
    return extension


def _files(sources: Path, *patterns: str) -> list[str]:
    return sorted(str(path) for pattern in patterns for path in sources.glob(pattern))


def require_loadable(folder: Path) -> None:
    """Load what was compiled: a lack that only shows then would otherwise be found by every command."""
    (path,) = folder.glob("_ext.*.so")
    loader = importlib.machinery.ExtensionFileLoader("_ext", str(path))
    importlib.util.module_from_spec(importlib.util.spec_from_loader("_ext", loader))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
