"""Metrics by epoch. Early stopping and the best epoch are functions of them alone."""

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from multi_abnormality.config.schema import Params
from multi_abnormality.utils.atomic_io import atomic_write


@dataclass(frozen=True)
class EpochMetrics:
    """Metrics of an epoch.

    Attributes:
        epoch: number of the epoch, from 0.
        step: optimizer steps done at the end of the epoch.
        learning_rate: learning rate at the end of the epoch.
        train_loss: mean training loss.
        val_loss: validation loss.
        val_auroc: validation macro AUROC over the findings that have both classes.
    """

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    val_loss: float
    val_auroc: float


@dataclass(frozen=True)
class StopCriteria:
    """Stop criteria of a run.

    Attributes:
        epochs: maximum number of epochs.
        patience: number of epochs without improvement of the validation macro AUROC.
        patience_start_epoch: patience is counted from this epoch.
    """

    epochs: int
    patience: int
    patience_start_epoch: int = 0

    @classmethod
    def of(cls, params: Params) -> "StopCriteria":
        """Return the criteria of a run; patience is not counted before the backbone is unfrozen."""
        progressive = params.model.finetune == "progressive"
        first = params.model.unfreeze_epoch if progressive else 0
        return cls(params.train.epochs, params.train.early_stopping_patience, first)


class History:
    """Metrics of the epochs so far, in order."""

    def __init__(self, epochs: list[EpochMetrics] | None = None) -> None:
        self.epochs = epochs or []

    @property
    def best(self) -> EpochMetrics:
        """The first epoch with the highest validation macro AUROC."""
        return max(self.epochs, key=lambda epoch: (epoch.val_auroc, -epoch.epoch))

    def patience_exceeded(self, limits: StopCriteria) -> bool:
        """Whether the last `patience` epochs brought no improvement."""
        if not self.epochs:
            return False
        waiting_since = max(self.best.epoch, limits.patience_start_epoch - 1)
        return self.epochs[-1].epoch - waiting_since >= limits.patience

    def stopped_early(self, epochs: int) -> bool:
        """Whether a finished run of at most `epochs` epochs ended by early stopping."""
        return len(self.epochs) < epochs

    def is_finished(self, limits: StopCriteria) -> bool:
        """Whether training ends after these epochs."""
        return len(self.epochs) >= limits.epochs or self.patience_exceeded(limits)

    def state(self) -> list[dict[str, Any]]:
        return [asdict(epoch) for epoch in self.epochs]

    @classmethod
    def from_state(cls, state: list[dict[str, Any]]) -> "History":
        return cls([EpochMetrics(**row) for row in state])

    def write_csv(self, path: Path) -> None:
        """Write one row per epoch, for `dvc plots`."""
        text = io.StringIO()
        writer = csv.DictWriter(
            text, [field.name for field in fields(EpochMetrics)], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(self.state())
        atomic_write(text.getvalue().encode(), path)
