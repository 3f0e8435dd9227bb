"""Training runs of a small network on a small dataset, a second or two each."""

import hashlib
from pathlib import Path

from multi_abnormality.config.schema import Params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.checkpoint_saver import BackupHook
from multi_abnormality.runtime.graceful_stop import StopRequest
from multi_abnormality.runtime.process_group import ProcessGroup
from multi_abnormality.runtime.training_run import RunPaths, TrainingRun
from multi_abnormality.training.history import History


class Runner:
    """Trains with the same parameters and data in any number of directories."""

    def __init__(self, params: Params, processed: ProcessedDataset) -> None:
        self.params = params
        self.processed = processed

    def prepare(
        self,
        folder: Path,
        machine: dict[str, object] | None = None,
        model: dict[str, object] | None = None,
        ranks: ProcessGroup | None = None,
        **train: object,
    ) -> TrainingRun:
        """Set up a run with changed parameters of `machine`, `model` and `train`."""
        changes = {
            "machine": self.params.machine.model_copy(update=machine or {}),
            "model": self.params.model.model_copy(update=model or {}),
            "train": self.params.train.model_copy(update=train),
        }
        paths = RunPaths(
            folder / "checkpoints",
            folder / "logs",
            folder / "history.csv",
            CheckpointArchive(folder / "archive", folder / "cache"),
        )
        return TrainingRun(self.params.model_copy(update=changes), self.processed, paths, ranks)

    def run(
        self,
        folder: Path,
        stop: StopRequest | None = None,
        backup: BackupHook | None = None,
        machine: dict[str, object] | None = None,
        model: dict[str, object] | None = None,
        **train: object,
    ) -> History:
        training = self.prepare(folder, machine, model, **train)
        return training.run(stop, backup)

    @staticmethod
    def hashes(folder: Path) -> dict[str, str]:
        """Return the hashes of the checkpoints and the history."""
        files = [*(folder / "checkpoints").iterdir(), folder / "history.csv"]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}
