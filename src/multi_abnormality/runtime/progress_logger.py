"""Progress of a run: log, CSV file, TensorBoard and progress bar."""

import time
from pathlib import Path
from typing import Any

import multi_abnormality.utils.torchvision_compat  # noqa: F401  # isort: skip
import lightning
from lightning.pytorch.callbacks import Callback

from multi_abnormality.config.schema import Train
from multi_abnormality.runtime.tensorboard import TensorBoard
from multi_abnormality.training.history import History
from multi_abnormality.utils.console import PLAIN_LINE_SECONDS, console, log
from multi_abnormality.utils.progress_bar import ProgressBar


class ProgressLogger(Callback):
    """Logs each epoch: a line in the log, a row in a CSV file, a point in TensorBoard.

    On a terminal a progress bar shows the epoch's steps; elsewhere a line is logged periodically.

    Args:
        tensorboard: TensorBoard logger.
        history: path of the CSV file.
        settings: section `train` of the parameters.
    """

    def __init__(self, tensorboard: TensorBoard, history: Path, settings: Train) -> None:
        self.tensorboard = tensorboard
        self.history = history
        self.settings = settings
        self._started = self._logged = 0.0
        self._first = 0  # first batch of this epoch in this process
        self._bar = ProgressBar(console.rich, transient=True) if console.is_terminal else None

    def close(self) -> None:
        """Close the progress bar and TensorBoard's file."""
        if self._bar:
            self._bar.stop()
        self.tensorboard.close()

    def _name(self, trainer: lightning.Trainer) -> str:
        return f"epoch {trainer.current_epoch}/{self.settings.epochs}"

    def on_train_start(self, trainer: lightning.Trainer, pl_module: object) -> None:  # noqa: ARG002
        if self._bar:
            self._bar.start()
        self._begin(trainer, trainer.fit_loop.epoch_loop.batch_progress.current.completed)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: object) -> None:  # noqa: ARG002
        self._begin(trainer, 0)

    def _begin(self, trainer: lightning.Trainer, batch: int) -> None:
        self._started = self._logged = time.monotonic()
        self._first = batch
        self._show(self._name(trainer), trainer.num_training_batches, batch)

    def _show(self, description: str, total: float, done: int = 0) -> None:
        """Restart the progress bar."""
        if self._bar:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(description, total=total, completed=done, unit="steps")

    def _advance(self) -> None:
        if self._bar:
            self._bar.advance(self._bar.task_ids[0])

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: object, outputs: object,  # noqa: ARG002
        batch: object, batch_idx: int,  # noqa: ARG002
    ) -> None:  # fmt: skip
        self._advance()
        now = time.monotonic()
        if self._bar or now - self._logged < PLAIN_LINE_SECONDS:
            return
        self._logged, batches = now, trainer.num_training_batches
        rate = (batch_idx + 1 - self._first) / (now - self._started)
        log.info(
            "%s  step %d/%d  %.1f volumes/s  %.0f s left",
            self._name(trainer), batch_idx + 1, batches, rate * self.settings.batch_size,
            (batches - batch_idx - 1) / rate,
        )  # fmt: skip

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: object) -> None:  # noqa: ARG002
        self._show(f"{self._name(trainer)} validation", sum(trainer.num_val_batches))

    def on_validation_batch_end(self, *_: object, **__: object) -> None:
        self._advance()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        history: History = pl_module.history
        epoch = history.epochs[-1]
        line = (
            f"{self._name(trainer)}  train_loss {epoch.train_loss:.3f}  "
            f"val_loss {epoch.val_loss:.3f}  val_auroc {epoch.val_auroc:.3f}"
            f"{' (best)' if history.best is epoch else ''}  "
            f"{time.monotonic() - self._started:.0f} s"
        )
        if console.is_terminal:  # with time and level the line would exceed 80 columns
            console.print(line)
        else:
            log.info(line)
        self.tensorboard.add(epoch)
        history.write_csv(self.history)
