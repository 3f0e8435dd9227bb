"""The history as TensorBoard shows it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from multi_abnormality.errors import InputError
from multi_abnormality.training.history import Epoch, History


class TensorBoard:
    """A folder of its files, written anew at every start.

    So a run that was resumed, on this machine or another, is one run without doubled steps.
    """

    def __init__(self, folder: Path, history: History) -> None:
        self.folder = folder
        with self._told():
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
            self.writer = SummaryWriter(folder)
        for epoch in history.epochs:
            self.add(epoch)

    def add(self, epoch: Epoch) -> None:
        row = asdict(epoch)
        number = row.pop("epoch")
        with self._told():
            for name, value in row.items():
                self.writer.add_scalar(name, value, number)
            self.writer.flush()

    def close(self) -> None:
        with self._told():
            self.writer.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror})") from error
