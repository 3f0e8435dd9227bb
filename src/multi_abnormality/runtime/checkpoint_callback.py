"""Callback that saves checkpoints: when it saves, and which files."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import multi_abnormality.utils.torchvision_compat  # noqa: F401  # isort: skip
import lightning
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging

from multi_abnormality.runtime.checkpoint_archive import hard_link
from multi_abnormality.runtime.checkpoint_files import BEST, LAST, filenames_for_epoch, kept_names
from multi_abnormality.runtime.checkpoint_io import save_checkpoint
from multi_abnormality.runtime.graceful_stop import Stopped, StopRequest
from multi_abnormality.runtime.lightning_checkpoint_io import PendingCheckpoints
from multi_abnormality.runtime.process_group import DistributedContext
from multi_abnormality.runtime.train_progress import TrainProgress, loop_state
from multi_abnormality.training.history import History
from multi_abnormality.utils.console import log


class BackupHook(Protocol):
    """Hook that backs up checkpoints in the background."""

    @property
    def is_on(self) -> bool:
        """Whether checkpoints are backed up."""

    def saved(self, epochs_done: int) -> None:
        """Called after each save of last.ckpt."""

    def poll(self) -> None:
        """Called after each step."""


class NoBackup:
    """Backup hook that does nothing."""

    is_on = False

    def saved(self, epochs_done: int) -> None: ...

    def poll(self) -> None: ...


@dataclass(frozen=True)
class SaveInterval:
    """Maximum interval between saves; the first limit that is reached counts."""

    epochs: int
    seconds: float


class CheckpointCallback(Checkpoint):
    """Saves last.ckpt every N epochs or minutes, on a stop request, and at the end of training.

    With a backup it also saves before the first step. Every N epochs an epoch checkpoint is kept
    as well. The best epoch is held in memory until the next save and written to best.ckpt then:
    early in training each epoch is the best so far, and writing them all took more time than all
    other saves.

    The callback has no state of its own; it derives everything from the module's history. Only
    rank 0 saves, and all ranks stop at the same step.

    Args:
        folder: directory of checkpoints.
        batches: number of batches per epoch.
        accumulate_grad_batches: number of batches per optimizer step. Saves wait for a step, since
            accumulated gradients are not part of a checkpoint.
        interval: maximum interval between saves.
        stop: stop request, checked after every step.
        averaging: callback that swaps in the averaged weights during validation.
        backup: hook called after each save of last.ckpt and after each step.
        sync: called after each save, with the names of the epoch checkpoints to keep.
        ranks: distributed context.
        stop_check_batches: validation batches after which ranks check for a stop request; equal on
            all ranks.
        is_new: whether the run starts without a checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        batches: int,
        accumulate_grad_batches: int,
        interval: SaveInterval,
        stop: StopRequest,
        averaging: WeightAveraging,
        backup: BackupHook,
        sync: Callable[[list[str]], None],
        ranks: DistributedContext,
        stop_check_batches: int,
        is_new: bool,
    ) -> None:
        self.folder = folder
        self.batches = batches
        self.accumulate_grad_batches = accumulate_grad_batches
        self.interval = interval
        self.stop = stop
        self.averaging = averaging
        self.backup = backup
        self.sync = sync
        self.ranks = ranks
        self.stop_check_batches = stop_check_batches
        self.is_new = is_new
        self._position = TrainProgress(0, 0)
        self._started = self._saved_at = time.monotonic()
        self._saves = 0
        self._seconds = 0.0
        self._pending: PendingCheckpoints = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: object) -> None:  # noqa: ARG002
        self.stop.install_handlers()  # Lightning's own would end training without a save
        self._started = self._saved_at = time.monotonic()
        # If the machine were lost before the first save, the remote would have the processed
        # volumes, but no state that refers to them.
        if self.is_new and self.backup.is_on:
            self._save(trainer, TrainProgress(0, 0), [])

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
        if done % self.accumulate_grad_batches == 0 or done == self.batches:
            reason = self._reason()
            if reason or self._is_time():
                self._save(trainer, TrainProgress(trainer.current_epoch, done), [])
            if reason:
                raise Stopped(reason)
        self.backup.poll()

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule,
        outputs: object, batch: object, batch_idx: int, dataloader_idx: int = 0,  # noqa: ARG002
    ) -> None:  # fmt: skip
        if batch_idx < self.stop_check_batches and (reason := self._reason()):
            self.averaging.on_validation_epoch_end(trainer, pl_module)  # the weights themselves
            self._save(trainer, TrainProgress(trainer.current_epoch, self.batches), [])
            raise Stopped(reason)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        history: History = pl_module.history
        done = len(history.epochs)
        names = filenames_for_epoch(history, self.interval.epochs)
        over = trainer.should_stop or done == trainer.max_epochs
        is_due = done % self.interval.epochs == 0 or self._is_time()
        reason = self._reason()
        if over or is_due or reason:
            self._save(trainer, TrainProgress(done, 0), names)
        elif BEST in names:
            self._keep_best_in_memory(trainer, TrainProgress(done, 0))
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
        position = TrainProgress(**checkpoint["position"])
        loops = loop_state(position, self.batches, checkpoint["global_step"])
        checkpoint["loops"] = {"fit_loop": loops}

    def _reason(self) -> str | None:
        return self.ranks.any_reason(self.stop.reason)

    def _is_time(self) -> bool:
        return time.monotonic() - self._saved_at >= self.interval.seconds

    def _keep_best_in_memory(self, trainer: lightning.Trainer, position: TrainProgress) -> None:
        if not self.ranks.is_rank_zero:
            return
        started = time.monotonic()
        self._position = position
        trainer.save_checkpoint(self.folder / BEST, storage_options=self._pending)
        self._seconds += time.monotonic() - started

    def _save(self, trainer: lightning.Trainer, position: TrainProgress, names: list[str]) -> None:
        """Save last.ckpt and link it to other names, BEST among them if this epoch is the best."""
        if not self.ranks.is_rank_zero:
            return
        started = time.monotonic()
        history: Any = trainer.lightning_module.history
        self._position = position
        if BEST not in names:
            for path, checkpoint in self._pending.items():
                save_checkpoint(checkpoint, path)
        self._pending.clear()
        last = self.folder / LAST
        trainer.save_checkpoint(last)
        for name in names:
            hard_link(last, self.folder / name)
        kept = kept_names(history, self.interval.epochs)
        self.sync(kept)
        self._saves += 1
        self._saved_at = time.monotonic()
        self._seconds += self._saved_at - started
        self.backup.saved(position.epoch)
