"""TensorBoard logger of steps and epochs."""

from collections.abc import Sequence

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import FileWriter

from multi_abnormality.runtime.loggers.logged_run import (
    LoggedRun,
    epoch_values,
    explain_write_errors,
    step_values,
)
from multi_abnormality.training.history import History, StepMetrics


class TensorBoardLogger:
    """Writes the history to TensorBoard, replacing earlier event files at every start.

    A resumed run then shows each step once, on this machine or another.
    """

    def __init__(self, run: LoggedRun) -> None:
        self.folder = run.folder
        with explain_write_errors(self.folder):
            for old in self.folder.glob("events.out.tfevents.*"):
                old.unlink()
            self.writer = FileWriter(str(self.folder))
            for step in run.history.steps:
                self._add(step_values(step), step.step)
            for epoch in run.history.epochs:
                self._add(epoch_values(epoch), epoch.epoch)
            self.writer.flush()

    def log_steps(self, steps: Sequence[StepMetrics], volumes_per_second: float) -> None:
        with explain_write_errors(self.folder):
            for step in steps:
                self._add(step_values(step, volumes_per_second), step.step)
            self.writer.flush()

    def log_epoch(self, history: History) -> None:
        epoch = history.epochs[-1]
        with explain_write_errors(self.folder):
            self._add(epoch_values(epoch), epoch.epoch)
            self.writer.flush()

    def _add(self, values: dict[str, float], step: int) -> None:
        """Add all values as one event: several take as many times as long."""
        parts = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self.writer.add_summary(Summary(value=parts), step)

    def close(self) -> None:
        with explain_write_errors(self.folder):
            self.writer.close()
