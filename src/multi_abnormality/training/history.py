"""What each epoch brought. Early stopping and the best epoch are functions of it alone."""

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from multi_abnormality.files import write_durably
from multi_abnormality.params import Params


@dataclass(frozen=True)
class Epoch:
    epoch: int  # from 0
    step: int  # optimizer steps up to its end
    learning_rate: float  # at its end
    train_loss: float
    val_loss: float
    val_auroc: float  # macro, over the findings that have both classes


@dataclass(frozen=True)
class Limits:
    """When a training ends."""

    epochs: int
    patience: int  # epochs without a better validation macro AUROC
    patient_from: int = 0  # the first epoch that may bring one

    @classmethod
    def of(cls, params: Params) -> "Limits":
        """Patience counts from where the backbone begins to learn, where that is later."""
        progressive = params.model.finetune == "progressive"
        first = params.model.unfreeze_epoch if progressive else 0
        return cls(params.train.epochs, params.train.early_stopping_patience, first)


class History:
    """The epochs so far, in order."""

    def __init__(self, epochs: list[Epoch] | None = None) -> None:
        self.epochs = epochs or []

    @property
    def best(self) -> Epoch:
        """The first with the highest validation macro AUROC."""
        return max(self.epochs, key=lambda epoch: (epoch.val_auroc, -epoch.epoch))

    def stalled(self, limits: Limits) -> bool:
        """Whether patience is over: so many epochs brought nothing better than those before."""
        if not self.epochs:
            return False
        waiting_since = max(self.best.epoch, limits.patient_from - 1)
        return self.epochs[-1].epoch - waiting_since >= limits.patience

    def stopped_early(self, epochs: int) -> bool:
        """Whether a finished training of at most so many epochs ended by early stopping."""
        return len(self.epochs) < epochs

    def is_over(self, limits: Limits) -> bool:
        """Whether a training ends here."""
        return len(self.epochs) >= limits.epochs or self.stalled(limits)

    def state(self) -> list[dict[str, Any]]:
        return [asdict(epoch) for epoch in self.epochs]

    @classmethod
    def from_state(cls, state: list[dict[str, Any]]) -> "History":
        return cls([Epoch(**row) for row in state])

    def write_csv(self, path: Path) -> None:
        """A row an epoch, for `dvc plots`."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(Epoch)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.state())
        write_durably(text.getvalue().encode(), path)
