"""Checkpoint file names and the `complete` flag."""

from pathlib import Path
from typing import Any

from multi_abnormality.runtime.checkpoint_io import FORMAT, load_checkpoint, save_checkpoint
from multi_abnormality.training.history import EpochMetrics, History
from multi_abnormality.utils.errors import InputError

BEST = "best.ckpt"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"


def epoch_name(epoch: EpochMetrics) -> str:
    return f"multi_abnormality-epoch={epoch.epoch:02d}-val_loss={epoch.val_loss:.3f}.ckpt"


def filenames_for_epoch(history: History, every: int) -> list[str]:
    """Return the names, besides last.ckpt, under which the history's last epoch is saved."""
    epoch = history.epochs[-1]
    names = [BEST] if history.best is epoch else []
    if (epoch.epoch + 1) % every == 0:
        names.append(epoch_name(epoch))
    return names


def kept_names(history: History, every: int) -> list[str]:
    """Return the file names of the epoch checkpoints that a run has kept so far."""
    return [epoch_name(epoch) for epoch in history.epochs if (epoch.epoch + 1) % every == 0]


def mark_complete(folder: Path, about: dict[str, Any]) -> None:
    """Set the `complete` flag in best.ckpt and last.ckpt, and delete previous.ckpt.

    Args:
        folder: directory of checkpoints.
        about: metadata to store: that of the current parameters, so that a run whose `epochs` was
            raised after a save ends with the same bytes as one that had it from the start.
    """
    for name in (BEST, LAST):
        checkpoint = load_checkpoint(folder / name) | {"complete": True, "about": about}
        save_checkpoint(checkpoint, folder / name)
    (folder / PREVIOUS).unlink(missing_ok=True)


def load_complete(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a finished run.

    Raises:
        InputError: the file is missing, damaged, or of an unfinished run.
    """
    if not path.is_file():
        raise InputError(f"{path}: not found; `dvc repro train` creates it, `dvc pull` fetches it")
    checkpoint = load_checkpoint(path)
    if checkpoint["format"] < FORMAT:
        raise InputError(
            f"{path}: was written by an earlier version of this project (format "
            f"{checkpoint['format']}, this version reads {FORMAT}); `dvc repro` trains again, or "
            "install that version"
        )
    if not checkpoint["complete"]:
        raise InputError(f"{path}: training has not ended; `dvc repro` finishes it")
    return checkpoint
