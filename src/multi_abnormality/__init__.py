"""Train, score and ship a classifier of abnormalities in 3D chest CT.

The names in `__all__` are the Python API; they are imported at their first use.
"""

import sys

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


_COMMANDS = {  # modules that were programs or define a command, and the commands
    "compare": "compare",
    "doctor": "doctor",
    "download": "download",
    "experiments": "experiments",
    "find_learning_rate": "find-lr",
    "predict": "predict",
    "recipe": "recipe",
    "resume": "resume",
    "sample": "sample",
    "show_augmentation": "preview-augmentation",
    "inference.predict": "predict",
    "tools.compare.compare": "compare",
    "tools.doctor.doctor": "doctor",
    "tools.download.download": "download",
    "tools.ensemble.ensemble": "ensemble",
    "tools.experiments": "experiments",
    "tools.external_test.external_test": "evaluate",
    "tools.find_lr": "find-lr",
    "tools.folds": "folds",
    "tools.index.index": "index",
    "tools.offline_plots": "offline-plots",
    "tools.preview_augmentation": "preview-augmentation",
    "tools.recipe": "recipe",
    "tools.resume": "resume",
}


class _CommandFinder:
    """Answers `python -m multi_abnormality.predict` with the command of today."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        """Raise ModuleNotFoundError for a former command, and for a module that defines one.

        The latter only if it is run by `python -m`, which sets sys.argv[0] until it has found it.
        """
        module = name.removeprefix(f"{__name__}.")
        is_run = sys.argv[:1] == ["-m"]
        if module != name and module in _COMMANDS and (is_run or "." not in module):
            command = f"multi-abnormality {_COMMANDS[module]}"
            raise ModuleNotFoundError(f"it is now the command `{command}`", name=name)


sys.meta_path.insert(0, _CommandFinder)
