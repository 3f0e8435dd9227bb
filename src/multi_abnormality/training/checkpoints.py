"""Which checkpoints a training leaves, and what says that it ended."""

from pathlib import Path
from typing import Any

from multi_abnormality.errors import InputError
from multi_abnormality.training.files import load_checkpoint, save_checkpoint
from multi_abnormality.training.history import Epoch, History

BEST = "best.ckpt"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"


def epoch_name(epoch: Epoch) -> str:
    return f"multi_abnormality-epoch={epoch.epoch:02d}-val_loss={epoch.val_loss:.3f}.ckpt"


def names_of_epoch(history: History, every: int) -> list[str]:
    """The files, beside last.ckpt, that the end of the history's last epoch is saved as."""
    epoch = history.epochs[-1]
    names = [BEST] if history.best is epoch else []
    if (epoch.epoch + 1) % every == 0:
        names.append(epoch_name(epoch))
    return names


def kept_names(history: History, every: int) -> list[str]:
    """Return the file names of the epoch checkpoints that a run has kept so far."""
    return [epoch_name(epoch) for epoch in history.epochs if (epoch.epoch + 1) % every == 0]


def mark_complete(folder: Path, about: dict[str, Any]) -> None:
    """Say in best.ckpt and last.ckpt that training ended, and drop what only resuming needs.

    `about` is today's: one that was raised since a checkpoint was saved ends as a straight run.
    """
    for name in (BEST, LAST):
        checkpoint = load_checkpoint(folder / name) | {"complete": True, "about": about}
        save_checkpoint(checkpoint, folder / name)
    (folder / PREVIOUS).unlink(missing_ok=True)


def load_complete(path: Path) -> dict[str, Any]:
    """Read the checkpoint of a training that ended.

    Raises:
        InputError: it is missing, damaged, or of an unfinished training.
    """
    if not path.is_file():
        raise InputError(f"{path} is not there; `dvc repro train` makes it, `dvc pull` fetches it")
    checkpoint = load_checkpoint(path)
    if not checkpoint["complete"]:
        raise InputError(f"{path} is of a training that has not ended; `dvc repro` finishes it")
    return checkpoint
