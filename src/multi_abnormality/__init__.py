"""Train, score and ship a classifier of abnormalities in 3D chest CT."""

import sys

__version__ = "0.2.0"

_FORMER_COMMANDS = {  # modules that were programs, and the commands of today
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
}


class _FormerCommandFinder:
    """Answers `python -m multi_abnormality.predict` with the command of today."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        """Raise ModuleNotFoundError for a former command; find nothing else."""
        package, _dot, module = name.rpartition(".")
        if package == __name__ and module in _FORMER_COMMANDS:
            command = f"multi-abnormality {_FORMER_COMMANDS[module]}"
            raise ModuleNotFoundError(f"it is now the command `{command}`", name=name)


sys.meta_path.append(_FormerCommandFinder)
