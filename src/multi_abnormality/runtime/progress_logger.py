"""Progress of a run: log lines, progress bar, and the loggers that `train.loggers` names."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from multi_abnormality.config.schema import Train
from multi_abnormality.runtime.loggers.logger_registry import Logger
from multi_abnormality.training.history import History, StepMetrics
from multi_abnormality.utils.console import PLAIN_LINE_SECONDS, console, log

if TYPE_CHECKING:
    from multi_abnormality.utils.progress_bar import ProgressBar


@dataclass
class ProgressLogger:
    """Logs each epoch as a line in the log, and steps and epochs by the loggers.

    On a terminal a progress bar shows the epoch's batches; elsewhere a line is logged periodically.
    """

    loggers: Sequence[Logger]
    history: History
    settings: Train
    batches: int
    val_batches: int
    _started: float = 0.0  # time
    _logged: float = 0.0  # time of the last line
    _first: int = 0  # first batch of this epoch in this process
    _done: int = 0  # batches of this epoch
    _measured: tuple[int, float] = (0, 0.0)  # batches and time at which steps were logged
    _is_training: bool = True
    _bar: "ProgressBar | None" = None

    def __post_init__(self) -> None:
        if console.is_terminal:
            from multi_abnormality.utils.progress_bar import ProgressBar

            self._bar = ProgressBar(console.rich, transient=True)
            self._bar.start()

    def close(self) -> None:
        """Close the progress bar and the loggers' files."""
        if self._bar:
            self._bar.stop()
        for logger in self.loggers:
            logger.close()

    @property
    def _name(self) -> str:
        return f"epoch {len(self.history.epochs)}/{self.settings.epochs}"

    def start_epoch(self, first: int) -> None:
        """Start the next epoch, at batch number `first`."""
        self._started = self._logged = time.monotonic()
        self._first = self._done = first
        self._measured = (first, self._started)
        self._is_training = True
        self._show(self._name, self.batches, first)

    def start_validation(self) -> None:
        self._is_training = False
        self._show(f"{self._name} validation", self.val_batches)

    def _show(self, description: str, total: int, done: int = 0) -> None:
        """Restart the progress bar."""
        if self._bar:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(description, total=total, completed=done, unit="batches")

    def advance(self, done: int) -> None:
        """Show that `done` batches of the epoch or its validation are done."""
        now = time.monotonic()
        self._done = done
        if self._bar:
            self._bar.advance(self._bar.task_ids[0])
        elif self._is_training and now - self._logged >= PLAIN_LINE_SECONDS:
            self._logged = now
            rate = (done - self._first) / (now - self._started)
            log.info(
                "%s  batch %d/%d  %.1f volumes/s  %.0f s left",
                self._name, done, self.batches, rate * self.settings.batch_size,
                (self.batches - done) / rate,
            )  # fmt: skip

    def log_steps(self, steps: Sequence[StepMetrics]) -> None:
        """Log the steps since the last call, at their mean speed."""
        now = time.monotonic()
        before, then = self._measured
        self._measured = (self._done, now)
        volumes_per_second = (self._done - before) * self.settings.batch_size / (now - then)
        for logger in self.loggers:
            logger.log_steps(steps, volumes_per_second)

    def log_epoch(self) -> None:
        """Log the history's last epoch."""
        epoch = self.history.epochs[-1]
        line = (
            f"epoch {epoch.epoch}/{self.settings.epochs}  train_loss {epoch.train_loss:.3f}  "
            f"val_loss {epoch.val_loss:.3f}  val_auroc {epoch.val_auroc:.3f}"
            f"{' (best)' if self.history.best is epoch else ''}  "
            f"{time.monotonic() - self._started:.0f} s"
        )
        if console.is_terminal:  # with time and level the line would exceed 80 columns
            console.print(line)
        else:
            log.info(line)
        for logger in self.loggers:
            logger.log_epoch(self.history)
