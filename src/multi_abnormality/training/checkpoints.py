"""Which checkpoints are kept, which one is resumed, and what is read from them."""

from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import CheckpointIO

from multi_abnormality.console import log
from multi_abnormality.errors import InputError
from multi_abnormality.training.files import load_checkpoint, save_checkpoint
from multi_abnormality.training.history import Epoch

BEST = "best.ckpt"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"


def epoch_name(epoch: Epoch) -> str:
    return f"multi_abnormality-epoch={epoch.epoch:02d}-val_loss={epoch.val_loss:.3f}.ckpt"


class DurableIO(CheckpointIO):
    """Lightning's way to the files of `training.files`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        if storage_options is not None:
            raise TypeError("storage_options are not supported")
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,  # noqa: ARG002  always the CPU; Lightning moves it on
        weights_only: bool | None = None,  # noqa: ARG002  always
    ) -> dict[str, Any]:
        return load_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink()


class Checkpoints(Checkpoint):
    """Saves after each epoch: last.ckpt, best.ckpt where it is the best, one to keep every N.

    It holds no state: the module's history says all.

    Args:
        folder: where they go.
        every: epochs between those that are kept.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder = folder
        self.every = every

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        history = pl_module.history
        epoch = history.epochs[-1]
        if (epoch.epoch + 1) % self.every == 0:
            trainer.save_checkpoint(self.folder / epoch_name(epoch))
        if history.best is epoch:
            trainer.save_checkpoint(self.folder / BEST)
        last = self.folder / LAST
        if last.exists():
            last.replace(self.folder / PREVIOUS)
        trainer.save_checkpoint(last)


def mark_complete(folder: Path, about: dict[str, Any]) -> None:
    """Say in best.ckpt and last.ckpt that training ended, and drop what only resuming needs.

    `about` is today's: one that was raised since a checkpoint was saved ends as a straight run.
    """
    for name in (BEST, LAST):
        checkpoint = load_checkpoint(folder / name) | {"complete": True, "about": about}
        save_checkpoint(checkpoint, folder / name)
    (folder / PREVIOUS).unlink(missing_ok=True)


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The valid checkpoint that is furthest on, by what is inside; damaged ones are named."""
    best = None
    for path in sorted(folder.glob("*.ckpt")):
        try:
            found = path, load_checkpoint(path)
        except InputError as error:
            log.warning("%s; skipped", error)
            continue
        if best is None or _progress(found) > _progress(best):
            best = found
    return best


def _progress(found: tuple[Path, dict[str, Any]]) -> tuple:
    path, checkpoint = found
    return checkpoint["global_step"], checkpoint["complete"], path.name == LAST


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
