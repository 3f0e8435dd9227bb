"""TensorBoard logger of steps and epochs."""

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import FileWriter

from multi_abnormality.runtime.loggers.logged_run import FileLogger, LoggedRun


class TensorBoardLogger(FileLogger):
    """Writes event files for TensorBoard."""

    def __init__(self, run: LoggedRun) -> None:
        super().__init__(run, run.folder)

    def open(self) -> None:
        for old in self.path.glob("events.out.tfevents.*"):
            old.unlink()
        self.writer = FileWriter(str(self.path))

    def add(self, values: dict[str, float], step: int) -> None:
        """Add all values as one event: several take as many times as long."""
        parts = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self.writer.add_summary(Summary(value=parts), step)

    def flush(self, step: int) -> None:  # noqa: ARG002
        self.writer.flush()

    def end(self) -> None:
        self.writer.close()
