"""What several test modules share."""

import fcntl
import importlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel
import numpy as np
import pytest

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.config.schema import Params, load_params
from multi_abnormality.data.catalog.volume_id import VolumeName
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.stages import preprocess

if TYPE_CHECKING:
    from training_runner import Runner

# For this process and all that it starts, before torch is imported: nets of the tests' size gain
# nothing by threads, and two on a busy machine hold each other up to a tenth of their speed.
assert "torch" not in sys.modules or os.environ.get("OMP_NUM_THREADS") == "1"
os.environ["OMP_NUM_THREADS"] = "1"

# A shell without job control starts background jobs (`make test &`) with SIGINT ignored, and every
# process inherits that. The tests that interrupt a process need the default action.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Test workers send warnings to the process that started them, and its receiving threads import the
# warnings' classes. Where that import fails in a thread, the whole run ends: so it comes first.
importlib.import_module("multi_abnormality.training.training_step")

ROOT = Path(__file__).parent.parent

# The files that take longest come first, so that no worker is left with one of them at the end.
LONGEST = (
    "backup/test_restore.py",
    "backup/test_manager.py",
    "tools/doctor/test_doctor.py",
    "runtime/test_resume_decision.py",
    "runtime/test_multi_rank_training.py",
    "inference/test_predict.py",
    "tools/download/test_download.py",
    "stages/test_evaluate_and_export.py",
    "backup/test_google_drive_remote.py",
    "utils/parallel/test_dask_pool.py",
    "tools/compare/test_compare.py",
    "tools/test_experiments.py",
    "backup/test_hostile_bundles.py",
    "models/test_encoder.py",
    "chest_phantom/test_rasterize.py",
    "data/io/test_dicom_series.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {ROOT / "tests" / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


class CtRateFolder:
    """Builds a small folder in CT-RATE's layout, with tables as CT-RATE writes them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: dict[str, list[str]] = {"train": [], "valid": []}

    def add(self, name: str, positive: tuple[str, ...] = (), seed: int | None = None) -> Path:
        """Add a volume and its labels; an empty file unless a seed is given."""
        self.label(name, positive)
        return self.add_file(name, seed=seed)

    def label(self, name: str, positive: tuple[str, ...] = ()) -> None:
        cells = ["1" if finding in positive else "0" for finding in FINDINGS]
        self.rows[name.partition("_")[0]].append(",".join([f"{name}.nii.gz", *cells]))

    def add_file(
        self, name: str, version: str = "_fixed", suffix: str = ".nii.gz", seed: int | None = None
    ) -> Path:
        volume = VolumeName.parse(name)
        folder = self.root / "dataset" / f"{volume.prefix}{version}" / volume.patient_id
        path = folder / volume.scan_id / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if seed is None:
            path.touch()
        else:
            hu = np.random.default_rng(seed).integers(-1000, 300, (20, 20, 12), dtype=np.int16)
            nibabel.save(nibabel.Nifti1Image(hu, np.diag([-4, -4, 5, 1])), path)
        return path

    def table(self, split: str = "train") -> Path:
        return self.root / "dataset/multi_abnormality_labels" / f"{split}_predicted_labels.csv"

    def write_tables(self) -> None:
        for split, rows in self.rows.items():
            self.table(split).parent.mkdir(parents=True, exist_ok=True)
            self.table(split).unlink(missing_ok=True)
            if rows:
                lines = [",".join(["VolumeName", *FINDINGS]), *rows]
                self.table(split).write_text("\n".join(lines) + "\n")


@pytest.fixture
def ct_rate(tmp_path: Path) -> CtRateFolder:
    return CtRateFolder(tmp_path / "data")


class SharedFolders:
    """Folders that one test worker creates and all of them read."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, name: str, create: Callable[[Path], object]) -> Path:
        """Return the folder of that name, which `create` makes once."""
        folder, done = self.root / name, self.root / f"{name}.done"
        with (self.root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                create(folder)
                done.touch()
        return folder


@pytest.fixture(scope="session")
def shared_folders(tmp_path_factory: pytest.TempPathFactory) -> SharedFolders:
    folder = tmp_path_factory.getbasetemp()
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    return SharedFolders(folder.parent if is_worker else folder)


@pytest.fixture(scope="session")
def small_params() -> Params:
    """The project's parameters, with a model and volumes that train in seconds."""
    default = load_params(ROOT / "params.yaml")
    sections = {
        "preprocess": {"shape": (8, 32, 32), "spacing": (7.0, 3.0, 3.0)},
        "model": {"backbone": "test_efficientnet", "dropout": 0.2},
        "train": {
            "epochs": 3,
            "schedule_epochs": 4,
            "batch_size": 4,
            "slices_per_volume": 4,
            "learning_rate": 1e-3,
            "val_fraction": 0.3,
            "save_every_n_epochs": 2,
        },
        "evaluate": {"n_bootstrap": 50},
        "machine": {"accelerator": "cpu", "workers": 0},
    }
    return default.model_copy(
        update={
            name: getattr(default, name).model_copy(update=changes)
            for name, changes in sections.items()
        }
    )


@pytest.fixture(scope="session")
def small_set(shared_folders: SharedFolders, small_params: Params) -> ProcessedDataset:
    """A processed set of noise: 20 train and 8 valid patients, each with half of the findings, and
    every fourth of them with two reconstructions. Read-only.
    """

    def create(folder: Path) -> None:
        scans = CtRateFolder(folder / "data")
        rng = np.random.default_rng(0)
        for split, patients in (("train", 20), ("valid", 8)):
            for patient in range(1, patients + 1):
                positive = tuple(np.array(FINDINGS)[rng.random(len(FINDINGS)) < 0.5])
                for number in range(1, 3 if patient % 4 == 0 else 2):
                    name = f"{split}_{patient}_a_{number}"
                    seed = patient + 100 * number + (1000 if split == "valid" else 0)
                    scans.add(name, positive, seed=seed)
        scans.write_tables()
        preprocess.run(small_params, scans.root, folder / "processed", folder / "preprocess.json")

    return ProcessedDataset(shared_folders("small", create) / "processed")


@pytest.fixture(scope="session")
def runner(small_params: Params, small_set: ProcessedDataset) -> "Runner":
    """Training runs with the same parameters and data."""
    from training_runner import Runner  # imports torch, which is not to happen above

    return Runner(small_params, small_set)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, runner: "Runner") -> Path:
    """Directory of an uninterrupted run. Read-only."""
    folder = tmp_path_factory.mktemp("reference")
    runner.run(folder)
    return folder


@pytest.fixture(scope="session")
def trained(
    shared_folders: SharedFolders, small_params: Params, small_set: ProcessedDataset
) -> Path:
    """A folder with checkpoints/ and metrics/ of a finished and evaluated run. Read-only."""

    def create(root: Path) -> None:
        # These import torch, which is not to happen above.
        from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
        from multi_abnormality.runtime.training_run import RunPaths, TrainingRun
        from multi_abnormality.stages import evaluate

        metrics = root / "metrics"
        archive = CheckpointArchive(root / "aside", root / "cache")
        paths = RunPaths(root / "checkpoints", root / "logs", metrics / "history.csv", archive)
        TrainingRun(small_params, small_set, paths).run()
        evaluate.run(small_params, paths.checkpoints, small_set.root, metrics)

    return shared_folders("trained", create)


@pytest.fixture(scope="session")
def new_project(shared_folders: SharedFolders) -> Path:
    """A project with a small sample, in which no stage has run. Read-only."""
    from test_pipeline import make_project  # imports torch, which is not to happen above

    return shared_folders("new", lambda folder: make_project(folder / "project")) / "project"
