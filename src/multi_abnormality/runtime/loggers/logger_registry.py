"""Loggers of a run's metrics, by the names of `train.loggers`."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

from multi_abnormality.runtime.loggers.logged_run import LoggedRun
from multi_abnormality.training.history import History, StepMetrics
from multi_abnormality.utils.errors import raise_errors

# A new logger is a module here, its class in this table, and its name in config/field_types.py. Its
# package is only imported if the logger is used.
LOGGERS = {
    "tensorboard": "TensorBoardLogger",
    "csv": "CsvLogger",
    "wandb": "WandbLogger",
    "mlflow": "MlflowLogger",
    "dvclive": "DvcliveLogger",
}
# What the extra of pyproject.toml with a logger's name installs.
PACKAGES = {
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "dvclive": ("dvclive",),
}


class Logger(Protocol):
    """Logger of steps and epochs. After a resume each is logged once, also on another machine."""

    def log_steps(self, steps: Sequence[StepMetrics], volumes_per_second: float) -> None:
        """Log optimizer steps and their mean speed."""

    def log_epoch(self, history: History) -> None:
        """Log the history's last epoch."""

    def close(self) -> None:
        """Close the logger's files or connection."""


def check_loggers(names: Sequence[str]) -> None:
    """Check that the loggers' packages are installed."""
    errors = [
        f"{name} needs the package {package}: pip install 'multi-abnormality[{name}]'"
        for name in names
        for package in PACKAGES.get(name, ())
        if not _is_installed(package)
    ]
    raise_errors(errors, "train.loggers: packages are missing")


def _is_installed(package: str) -> bool:
    """Whether a package can be imported; a directory of its logs with its name is none."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def make_loggers(names: Sequence[str], run: LoggedRun) -> list[Logger]:
    """Return loggers of a run."""
    loggers = []
    for name in names:
        module = import_module(f"multi_abnormality.runtime.loggers.{name}_logger")
        loggers.append(getattr(module, LOGGERS[name])(run))
    return loggers
