"""When a training saves, and what a save does."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import lightning
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging

from multi_abnormality.console import log
from multi_abnormality.training.aside import link
from multi_abnormality.training.checkpoints import BEST, LAST, kept_names, names_of_epoch
from multi_abnormality.training.durable_io import Held
from multi_abnormality.training.files import save_checkpoint
from multi_abnormality.training.history import History
from multi_abnormality.training.position import Position, loop_state
from multi_abnormality.training.ranks import Ranks
from multi_abnormality.training.stopping import Stopped, StopRequest


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
        mirror: called after each save, with the names of the epoch checkpoints to keep.
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
        mirror: Callable[[list[str]], None],
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
            "saves: %d; they took %.1f s of %.1f s, %.2f %%",
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
        history: Any = trainer.lightning_module.history
        self._position = position
        if BEST not in names:
            for path, checkpoint in self._held.items():
                save_checkpoint(checkpoint, path)
        self._held.clear()
        last = self.folder / LAST
        trainer.save_checkpoint(last)
        for name in names:
            link(last, self.folder / name)
        kept = kept_names(history, self.cadence.epochs)
        self.mirror(kept)
        self._saves += 1
        self._saved_at = time.monotonic()
        self._seconds += self._saved_at - started
        self.backup.saved(position.epoch)
