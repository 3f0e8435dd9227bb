"""Probabilities of any chest CT scan: `predict.load(model)(scan)`, or as a program by `-m`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multi_abnormality.predict.model import Prediction, Predictor, find_model, load
    from multi_abnormality.predict.scans import find_scans

__all__ = ["Prediction", "Predictor", "find_model", "find_scans", "load"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for: the program's --help waits for none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "scans" if name == "find_scans" else "model"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
