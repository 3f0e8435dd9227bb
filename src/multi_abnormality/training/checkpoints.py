"""Which checkpoints are kept, and when they are saved."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import lightning
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from lightning.pytorch.plugins.io import CheckpointIO

from multi_abnormality.console import log
from multi_abnormality.errors import InputError
from multi_abnormality.training.aside import link
from multi_abnormality.training.files import in_memory, load_checkpoint, save_checkpoint
from multi_abnormality.training.history import Epoch, History
from multi_abnormality.training.position import Position, loop_state
from multi_abnormality.training.ranks import Ranks
from multi_abnormality.training.stopping import Stopped, StopRequest

BEST = "best.ckpt"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"

Held = dict[Path, dict[str, Any]]  # checkpoints that wait in memory


def epoch_name(epoch: Epoch) -> str:
    return f"multi_abnormality-epoch={epoch.epoch:02d}-val_loss={epoch.val_loss:.3f}.ckpt"


class DurableIO(CheckpointIO):
    """Lightning's way to the files of `training.files`.

    With storage options a checkpoint goes into them, and to no file.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Held | None = None
    ) -> None:
        path = Path(path)
        if storage_options is not None:
            storage_options[path] = in_memory(checkpoint)
            return
        keep = path.with_name(PREVIOUS) if path.name == LAST else None
        save_checkpoint(checkpoint, path, keep)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,  # noqa: ARG002  always the CPU; Lightning moves it on
        weights_only: bool | None = None,  # noqa: ARG002  always
    ) -> dict[str, Any]:
        return load_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink()


class Backup(Protocol):
    """Takes saves to where they outlive the machine, without making training wait."""

    @property
    def is_on(self) -> bool:
        """Whether it takes them anywhere."""

    def saved(self, epochs_done: int) -> None:
        """Called after each save of last.ckpt."""

    def poll(self) -> None:
        """Called after each step."""


class NoBackup:
    """Leaves the saves where they are."""

    is_on = False

    def saved(self, epochs_done: int) -> None: ...

    def poll(self) -> None: ...


@dataclass(frozen=True)
class Cadence:
    """When to save, whichever comes first."""

    epochs: int
    seconds: float


class Checkpoints(Checkpoint):
    """Saves last.ckpt every N epochs, by the clock, when training is to stop, and at its end; and
    before the first step, where there is a backup.

    With it go one to keep every N epochs and, if there was a better epoch since the last save,
    best.ckpt. It waits in memory until then: early in training each epoch is the best so far, and
    to write them all took more time than all other saves.

    It holds no state: the module's history says all. Of several processes the first one saves, and
    all stop at the same step.

    Args:
        folder: where they go.
        batches: of an epoch.
        accumulate: batches that make a step of the optimizer. Saves wait for a step: the gradients
            gathered for the next one are in no checkpoint.
        cadence: of saves.
        stop: looked at after every step.
        averaging: whose average stands in for the weights during a validation.
        backup: told of each save of last.ckpt.
        mirror: called after each save of any.
        ranks: the processes that train together.
        looks: batches of a validation after which a stop is looked for; each process has so many.
        is_new: whether training starts with nothing to go on from.
    """

    def __init__(
        self,
        folder: Path,
        batches: int,
        accumulate: int,
        cadence: Cadence,
        stop: StopRequest,
        averaging: WeightAveraging,
        backup: Backup,
        mirror: Callable[[], None],
        ranks: Ranks,
        looks: int,
        is_new: bool,
    ) -> None:
        self.folder = folder
        self.batches = batches
        self.accumulate = accumulate
        self.cadence = cadence
        self.stop = stop
        self.averaging = averaging
        self.backup = backup
        self.mirror = mirror
        self.ranks = ranks
        self.looks = looks
        self.is_new = is_new
        self._position = Position(0, 0)
        self._started = self._saved_at = time.monotonic()
        self._saves = 0
        self._seconds = 0.0
        self._held: Held = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: object) -> None:  # noqa: ARG002
        self.stop.listen()  # Lightning's own handler would end training without a save
        self._started = self._saved_at = time.monotonic()
        # Who loses the machine before the first save would find what preprocessing took hours for
        # on the remote, and no state that names it.
        if self.is_new and self.backup.is_on:
            self._save(trainer, Position(0, 0), [])

    def on_train_end(self, trainer: lightning.Trainer, pl_module: object) -> None:  # noqa: ARG002
        took = time.monotonic() - self._started
        log.info(
            "%d saves took %.1f s of %.1f s, %.2f %%",
            self._saves, self._seconds, took, 100 * self._seconds / took,
        )  # fmt: skip

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: object, outputs: object,  # noqa: ARG002
        batch: object, batch_idx: int,  # noqa: ARG002
    ) -> None:  # fmt: skip
        done = batch_idx + 1
        if done % self.accumulate == 0 or done == self.batches:
            reason = self._reason()
            if reason or self._is_time():
                self._save(trainer, Position(trainer.current_epoch, done), [])
            if reason:
                raise Stopped(reason)
        self.backup.poll()

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule,
        outputs: object, batch: object, batch_idx: int, dataloader_idx: int = 0,  # noqa: ARG002
    ) -> None:  # fmt: skip
        if batch_idx < self.looks and (reason := self._reason()):
            self.averaging.on_validation_epoch_end(trainer, pl_module)  # the weights themselves
            self._save(trainer, Position(trainer.current_epoch, self.batches), [])
            raise Stopped(reason)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        history: History = pl_module.history
        done = len(history.epochs)
        names = names_of_epoch(history, self.cadence.epochs)
        over = trainer.should_stop or done == trainer.max_epochs
        is_due = done % self.cadence.epochs == 0 or self._is_time()
        reason = self._reason()
        if over or is_due or reason:
            self._save(trainer, Position(done, 0), names)
        elif BEST in names:
            self._hold_best(trainer, Position(done, 0))
        if reason and not over:
            raise Stopped(reason)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: object, checkpoint: dict[str, Any]  # noqa: ARG002
    ) -> None:  # fmt: skip
        checkpoint["position"] = self._position.state()
        del checkpoint["loops"]

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: object, checkpoint: dict[str, Any]  # noqa: ARG002
    ) -> None:  # fmt: skip
        position = Position(**checkpoint["position"])
        loops = loop_state(position, self.batches, checkpoint["global_step"])
        checkpoint["loops"] = {"fit_loop": loops}

    def _reason(self) -> str | None:
        return self.ranks.any_of(self.stop.reason)

    def _is_time(self) -> bool:
        return time.monotonic() - self._saved_at >= self.cadence.seconds

    def _hold_best(self, trainer: lightning.Trainer, position: Position) -> None:
        if not self.ranks.leads:
            return
        started = time.monotonic()
        self._position = position
        trainer.save_checkpoint(self.folder / BEST, storage_options=self._held)
        self._seconds += time.monotonic() - started

    def _save(self, trainer: lightning.Trainer, position: Position, names: list[str]) -> None:
        """Save as last.ckpt, and under other names; BEST is one if an epoch ends as the best."""
        if not self.ranks.leads:
            return
        started = time.monotonic()
        self._position = position
        if BEST not in names:
            for path, checkpoint in self._held.items():
                save_checkpoint(checkpoint, path)
        self._held.clear()
        last = self.folder / LAST
        trainer.save_checkpoint(last)
        for name in names:
            link(last, self.folder / name)
        self.mirror()
        self._saves += 1
        self._saved_at = time.monotonic()
        self._seconds += self._saved_at - started
        self.backup.saved(position.epoch)


def names_of_epoch(history: History, every: int) -> list[str]:
    """The files, beside last.ckpt, that the end of the history's last epoch is saved as."""
    epoch = history.epochs[-1]
    names = [BEST] if history.best is epoch else []
    if (epoch.epoch + 1) % every == 0:
        names.append(epoch_name(epoch))
    return names


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
