"""What loggers are given, a run and the values of its metrics, and a base of those of files."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multi_abnormality.training.history import EpochMetrics, History, StepMetrics, StopCriteria
from multi_abnormality.utils.errors import InputError

_NOT_IN_NAMES = re.compile(r"[^\w.\- ]")  # MLflow refuses other characters


@dataclass(frozen=True)
class LoggedRun:
    """A run, as loggers see it.

    A logger that starts logs the metrics of `history` that it does not hold yet: those of the
    checkpoint that the run resumes from.
    """

    id: str  # the run's fingerprint
    config: dict[str, Any]  # parameters of the run
    history: History  # metrics of the epochs and steps so far, which the training loop extends
    criteria: StopCriteria  # stop criteria
    folder: Path  # directory of logs
    history_csv: Path  # CSV file with a row per epoch

    @property
    def is_finished(self) -> bool:
        return bool(self.history.epochs) and self.history.is_finished(self.criteria)


def step_values(step: StepMetrics, volumes_per_second: float | None = None) -> dict[str, float]:
    """Return the metrics of an optimizer step by name."""
    values = {
        "train/loss": step.loss,
        "train/learning_rate": step.learning_rate,
        "train/grad_norm": step.grad_norm,
    }
    if volumes_per_second is not None:
        values["train/volumes_per_second"] = volumes_per_second
    return values


def epoch_values(epoch: EpochMetrics) -> dict[str, float]:
    """Return the metrics of an epoch by name; `auroc/NAME` is that of a finding."""
    values = {
        "train_loss": epoch.train_loss,
        "val_loss": epoch.val_loss,
        "val_auroc": epoch.val_auroc,
    }
    for finding, auroc in epoch.auroc.items():
        name = f"auroc/{_NOT_IN_NAMES.sub('_', finding)}"
        while name in values:
            name += "_"
        values[name] = auroc
    return values


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Raise an InputError that names the path if a file cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


class FileLogger(ABC):
    """Base of loggers that write the run's history to files, replacing earlier ones at every start.

    A resumed run then has each step once, on this machine or another.

    Subclasses implement `open`, `add`, `flush` and `end`.
    """

    def __init__(self, run: LoggedRun, path: Path) -> None:
        self.path = path
        with explain_write_errors(path):
            self.open()
            for step in run.history.steps:
                self.add(step_values(step), step.step)
            for epoch in run.history.epochs:
                self.add(epoch_values(epoch), epoch.epoch)
            self.flush(run.history.steps[-1].step if run.history.steps else 0)

    @abstractmethod
    def open(self) -> None:
        """Open the files, without earlier content."""

    @abstractmethod
    def add(self, values: dict[str, float], step: int) -> None:
        """Write metrics of an optimizer step or epoch."""

    @abstractmethod
    def flush(self, step: int) -> None:
        """Write what is buffered, up to an optimizer step."""

    @abstractmethod
    def end(self) -> None:
        """Close the files."""

    def log_steps(self, steps: Sequence[StepMetrics], volumes_per_second: float) -> None:
        with explain_write_errors(self.path):
            for step in steps:
                self.add(step_values(step, volumes_per_second), step.step)
            self.flush(steps[-1].step)

    def log_epoch(self, history: History) -> None:
        epoch = history.epochs[-1]
        with explain_write_errors(self.path):
            self.add(epoch_values(epoch), epoch.epoch)
            self.flush(epoch.step)

    def close(self) -> None:
        with explain_write_errors(self.path):
            self.end()
