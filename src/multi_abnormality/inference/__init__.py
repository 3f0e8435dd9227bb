"""Inference with an exported model: `inference.load(model)(scan)` returns probabilities."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multi_abnormality.inference.input_scans import find_scans
    from multi_abnormality.inference.predictor import Prediction, Predictor, find_model, load

__all__ = ["Prediction", "Predictor", "find_model", "find_scans", "load"]


def __getattr__(name: str) -> Any:
    """Import submodules lazily, so that `--help` loads none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "input_scans" if name == "find_scans" else "predictor"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
