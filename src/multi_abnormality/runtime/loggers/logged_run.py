"""What loggers are given: a run, and the names and values of its metrics."""

import re
from collections.abc import Iterator
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
