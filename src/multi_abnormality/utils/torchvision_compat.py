"""Make torchvision importable with another build of torch; import it before timm.

PyPI's torchvision is built for CUDA. With a CPU build of torch its native library does not load,
and its Python part then fails on operators that only that library declares. timm imports
torchvision, but needs only its Python part, so declaring those operators is enough.
"""

import importlib.util
from pathlib import Path

import torch

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _native_library_loads() -> bool:
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        return True  # not installed: importing it raises a clear error
    folder = Path(package.origin).parent
    try:
        for library in folder.glob("_C*"):
            torch.ops.load_library(library)
    except OSError:
        return False
    return True


if not _native_library_loads():
    for _operator in _OPERATORS:
        torch.library.define(f"torchvision::{_operator}", _SCHEMA)
