"""Train, score and ship a classifier of abnormalities in 3D chest CT.

The names in `__all__` are the Python API; they are imported at their first use.
"""

TYPE_CHECKING = False  # as typing's, which takes time to import
if TYPE_CHECKING:
    from typing import Any

    from multi_abnormality.inference.predictor import Finding, Model, Prediction, load_model
    from multi_abnormality.utils.errors import InputError

__version__ = "0.2.0"
__all__ = ["Finding", "InputError", "Model", "Prediction", "__version__", "load_model"]


def __getattr__(name: str) -> "Any":
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = "utils.errors" if name == "InputError" else "inference.predictor"
    return getattr(import_module(f"{__name__}.{module}"), name)
