"""Loggers of a run's metrics, by the names of `train.loggers`."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from multi_abnormality.training.history import History

# A new logger is a module here, its class in this table, and its name in config/schema.py. Its
# package is only imported if the logger is used.
LOGGERS = {"tensorboard": "TensorBoardLogger", "csv": "CsvLogger"}


class Logger(Protocol):
    """Logger of epochs. After a resume each epoch must be logged once, also on another machine."""

    def log_epoch(self, history: History) -> None:
        """Log the history's last epoch."""

    def close(self) -> None:
        """Close the logger's files."""


def make_loggers(
    names: Sequence[str], folder: Path, history_csv: Path, history: History
) -> list[Logger]:
    """Return loggers of a run.

    Args:
        names: keys of LOGGERS.
        folder: directory of logs.
        history_csv: CSV file with a row per epoch.
        history: metrics of the epochs so far.
    """
    loggers = []
    for name in names:
        module = import_module(f"multi_abnormality.runtime.loggers.{name}_logger")
        loggers.append(getattr(module, LOGGERS[name])(folder, history_csv, history))
    return loggers
