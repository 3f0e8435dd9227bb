"""What training tells while it runs."""

import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from multi_abnormality.console import PLAIN_LINE_SECONDS, console, log
from multi_abnormality.params import Train
from multi_abnormality.training.history import History
from multi_abnormality.training.tensorboard import TensorBoard


class Report(Callback):
    """Tells of each epoch: a line in the log, a row in a CSV file, a point in TensorBoard.

    Args:
        tensorboard: of this run.
        history: the CSV file.
        settings: of this run.
    """

    def __init__(self, tensorboard: TensorBoard, history: Path, settings: Train) -> None:
        self.tensorboard = tensorboard
        self.history = history
        self.settings = settings
        self._started = self._told = 0.0
        self._first = 0  # batch of this epoch that this process did

    def on_train_start(self, trainer: lightning.Trainer, pl_module: object) -> None:  # noqa: ARG002
        self._begin(trainer.fit_loop.epoch_loop.batch_progress.current.completed)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: object) -> None:  # noqa: ARG002
        self._begin(0)

    def _begin(self, batch: int) -> None:
        self._started = self._told = time.monotonic()
        self._first = batch

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: object, outputs: object,  # noqa: ARG002
        batch: object, batch_idx: int,  # noqa: ARG002
    ) -> None:  # fmt: skip
        now = time.monotonic()
        if console.is_terminal or now - self._told < PLAIN_LINE_SECONDS:
            return
        self._told, batches = now, trainer.num_training_batches
        rate = (batch_idx + 1 - self._first) / (now - self._started)
        log.info(
            "epoch %d: %d/%d steps, %.1f volumes/s, %.0f s left of it",
            trainer.current_epoch, batch_idx + 1, batches, rate * self.settings.batch_size,
            (batches - batch_idx - 1) / rate,
        )  # fmt: skip

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:  # noqa: ARG002
        history: History = pl_module.history
        epoch = history.epochs[-1]
        seconds = time.monotonic() - self._started
        mark = ", the best so far" if history.best is epoch else ""
        log.info(
            "epoch %d, the last being %d: train loss %.4f, validation loss %.4f, "
            "macro AUROC %.4f%s, %.0f s",
            epoch.epoch, self.settings.epochs - 1, epoch.train_loss, epoch.val_loss,
            epoch.val_auroc, mark, seconds,
        )  # fmt: skip
        self.tensorboard.add(epoch)
        history.write_csv(self.history)
