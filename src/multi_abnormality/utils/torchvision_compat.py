"""Import timm with another build of torchvision, and without wandb; import it before timm.

PyPI's torchvision is built for CUDA. With a CPU build of torch its native library does not load,
and its Python part then fails on operators that only that library declares. timm imports
torchvision, but needs only its Python part, so declaring those operators is enough.

timm also imports wandb if that is installed, which takes half a second and replaces the methods of
the standard streams. Only the logger of that name needs it.

The garbage collector pauses meanwhile: it would take a sixth of the time, and find nothing.
"""

import gc
import importlib
import importlib.util
import sys
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

if "wandb" not in sys.modules:
    gc.disable()
    sys.modules["wandb"] = None  # type: ignore[assignment]  # as if it were not installed
    importlib.import_module("timm")
    del sys.modules["wandb"]
    gc.freeze()  # what is imported stays
    gc.enable()
