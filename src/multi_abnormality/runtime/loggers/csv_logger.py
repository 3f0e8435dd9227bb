"""CSV logger of epochs."""

from pathlib import Path

from multi_abnormality.training.history import History


class CsvLogger:
    """Writes a file with a row per epoch, for `dvc plots`, after every epoch."""

    def __init__(self, folder: Path, history_csv: Path, history: History) -> None:  # noqa: ARG002
        self.path = history_csv

    def log_epoch(self, history: History) -> None:
        history.write_csv(self.path)

    def close(self) -> None: ...
