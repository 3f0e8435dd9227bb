"""Trainings of a small net on a small set, in a second or two."""

import hashlib
from pathlib import Path

import pytest

from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.params import Params
from multi_abnormality.training.aside import Aside
from multi_abnormality.training.fit import Places, Training
from multi_abnormality.training.history import History
from multi_abnormality.training.ranks import Ranks
from multi_abnormality.training.saves import Backup
from multi_abnormality.training.stopping import StopRequest


class Trainings:
    """Runs one training in any number of folders."""

    def __init__(self, params: Params, processed: ProcessedSet) -> None:
        self.params = params
        self.processed = processed

    def prepare(
        self,
        folder: Path,
        machine: dict[str, object] | None = None,
        model: dict[str, object] | None = None,
        ranks: Ranks | None = None,
        **train: object,
    ) -> Training:
        """Set one up, with other parameters of `machine`, `model` and `train`."""
        changes = {
            "machine": self.params.machine.model_copy(update=machine or {}),
            "model": self.params.model.model_copy(update=model or {}),
            "train": self.params.train.model_copy(update=train),
        }
        places = Places(
            folder / "checkpoints",
            folder / "logs",
            folder / "history.csv",
            Aside(folder / "aside", folder / "cache"),
        )
        return Training(self.params.model_copy(update=changes), self.processed, places, ranks)

    def run(
        self,
        folder: Path,
        stop: StopRequest | None = None,
        backup: Backup | None = None,
        machine: dict[str, object] | None = None,
        model: dict[str, object] | None = None,
        **train: object,
    ) -> History:
        training = self.prepare(folder, machine, model, **train)
        return training.run(stop, backup)

    @staticmethod
    def hashes(folder: Path) -> dict[str, str]:
        """Of all that must end alike: the checkpoints and the history."""
        files = [*(folder / "checkpoints").iterdir(), folder / "history.csv"]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


@pytest.fixture(scope="session")
def trainings(small_params: Params, small_set: ProcessedSet) -> Trainings:
    return Trainings(small_params, small_set)


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory, trainings: Trainings) -> Path:
    """The folder of an undisturbed run. Not to be written."""
    folder = tmp_path_factory.mktemp("straight")
    trainings.run(folder)
    return folder
