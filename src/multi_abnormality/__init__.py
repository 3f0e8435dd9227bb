"""Train, score and ship a classifier of abnormalities in 3D chest CT."""

import sys

__version__ = "0.2.0"

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
    "tools.experiments": "experiments",
    "tools.find_lr": "find-lr",
    "tools.index.index": "index",
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
