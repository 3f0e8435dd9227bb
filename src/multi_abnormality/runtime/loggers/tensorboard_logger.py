"""TensorBoard logger of epochs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from multi_abnormality.training.history import EpochMetrics, History
from multi_abnormality.utils.errors import InputError


class TensorBoardLogger:
    """Writes the history to TensorBoard, replacing earlier event files at every start.

    A resumed run then shows each step once, on this machine or another.
    """

    def __init__(self, folder: Path, history_csv: Path, history: History) -> None:  # noqa: ARG002
        self.folder = folder
        with self._explain_errors():
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
            self.writer = SummaryWriter(folder)
        for epoch in history.epochs:
            self._add(epoch)

    def log_epoch(self, history: History) -> None:
        self._add(history.epochs[-1])

    def _add(self, epoch: EpochMetrics) -> None:
        row = asdict(epoch)
        number = row.pop("epoch")
        with self._explain_errors():
            for name, value in row.items():
                self.writer.add_scalar(name, value, number)
            self.writer.flush()

    def close(self) -> None:
        with self._explain_errors():
            self.writer.close()

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror})") from error
