"""Metrics by step and by epoch.

Early stopping and the best epoch are functions of those by epoch alone.
"""

import csv
import io
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multi_abnormality.config.schema import Params
from multi_abnormality.utils.atomic_io import atomic_write


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """Metrics of an optimizer step."""

    step: int  # number of the optimizer step, from 1
    loss: float  # mean training loss of the step's batches
    learning_rate: float  # of the head
    grad_norm: float  # norm of the gradients before clipping


@dataclass(frozen=True)
class EpochMetrics:
    """Metrics of an epoch."""

    epoch: int  # number of the epoch, from 0
    step: int  # optimizer steps done at the end of the epoch
    learning_rate: float  # at the end of the epoch
    train_loss: float  # mean training loss
    val_loss: float
    val_auroc: float  # macro AUROC over the findings that have both classes
    auroc: dict[str, float] = field(default_factory=dict)  # of each of these findings


@dataclass(frozen=True)
class StopCriteria:
    """Stop criteria of a run."""

    epochs: int  # maximum number of epochs
    patience: int  # number of epochs without improvement of the validation macro AUROC
    patience_start_epoch: int = 0  # from which patience is counted

    @classmethod
    def of(cls, params: Params) -> "StopCriteria":
        """Return the criteria of a run; patience is not counted before the backbone is unfrozen."""
        progressive = params.model.finetune == "progressive"
        first = params.model.unfreeze_epoch if progressive else 0
        return cls(params.train.epochs, params.train.early_stopping_patience, first)


@dataclass
class History:
    """Metrics of the epochs and steps so far, in order."""

    epochs: list[EpochMetrics] = field(default_factory=list)
    steps: list[StepMetrics] = field(default_factory=list)

    @property
    def best(self) -> EpochMetrics:
        """The first epoch with the highest validation macro AUROC."""
        return self.ranked(1)[0]

    def ranked(self, count: int) -> list[EpochMetrics]:
        """The `count` epochs with the highest validation macro AUROC, the best one first."""
        return sorted(self.epochs, key=lambda epoch: (-epoch.val_auroc, epoch.epoch))[:count]

    def patience_exceeded(self, limits: StopCriteria) -> bool:
        """Whether the last `patience` epochs brought no improvement."""
        if not self.epochs:
            return False
        waiting_since = max(self.best.epoch, limits.patience_start_epoch - 1)
        return self.epochs[-1].epoch - waiting_since >= limits.patience

    def is_finished(self, limits: StopCriteria) -> bool:
        """Whether training ends after these epochs."""
        return len(self.epochs) >= limits.epochs or self.patience_exceeded(limits)

    def state(self) -> list[dict[str, Any]]:
        return [asdict(epoch) for epoch in self.epochs]

    def steps_state(self) -> Tensor:
        """Return the metrics of the steps: (S, 4) float64, in the order of StepMetrics' fields."""
        rows = [astuple(step) for step in self.steps]
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, len(fields(StepMetrics)))

    @classmethod
    def from_state(cls, state: list[dict[str, Any]], steps: Tensor | None = None) -> "History":
        rows = [] if steps is None else steps.tolist()
        return cls(
            [EpochMetrics(**row) for row in state],
            [StepMetrics(int(number), *values) for number, *values in rows],
        )

    def write_csv(self, path: Path) -> None:
        """Write one row per epoch, for `dvc plots`."""
        text = io.StringIO()
        names = [each.name for each in fields(EpochMetrics) if each.name != "auroc"]
        writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.state())
        atomic_write(text.getvalue().encode(), path)
