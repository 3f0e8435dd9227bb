"""A hub with a small CT-RATE, and downloads from it in subprocesses."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import CtRateFolder
from hub_stand_in import HubStandIn
from program_server import run_python

NOISE_BYTES = 8_000_000  # size of the scan whose download is interrupted


class Machine:
    """Working directory of downloads, and the hub."""

    def __init__(self, hub: HubStandIn, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        self.environment = os.environ | hub.environment(folder / "home")
        self.data = folder / "data"

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "multi_abnormality", "download", *arguments],
            cwd=self.folder,
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def run(self, *arguments: str, code: int = 0, **options: Any) -> str:
        """Run a download, check its exit status and return its log on one line."""
        if options:
            process = self.start(*arguments, **options)
            _, output = process.communicate(timeout=600)
            returned = process.returncode
        else:
            program = ("multi_abnormality", "download")
            returned, output = run_python(self.folder, self.environment, *program, *arguments)
        assert returned == code, output
        assert "Traceback" not in output
        return " ".join(output.split())

    def volumes(self) -> set[str]:
        return {path.name.removesuffix(".nii.gz") for path in self.data.rglob("*.nii.gz")}

    def rows(self, split: str = "train") -> list[str]:
        path = self.data / f"dataset/multi_abnormality_labels/{split}_predicted_labels.csv"
        return [line.partition(".")[0] for line in path.read_text().splitlines()[1:]]


@pytest.fixture
def repository(tmp_path: Path) -> CtRateFolder:
    """Patients 1 to 3 and 11 of train, 1 of valid; train_3_a_1 is not a chest scan."""
    scans = CtRateFolder(tmp_path / "repository ü")
    for seed, name in enumerate(
        ("train_1_a_1", "train_1_a_2", "train_2_a_1", "train_2_b_1", "train_3_a_1", "train_11_a_1")
    ):
        scans.add(name, ("Emphysema",) if name.startswith("train_1_") else (), seed=seed)
    scans.add("valid_1_a_1", seed=9)
    scans.write_tables()
    folder = scans.root / "dataset/metadata"
    folder.mkdir()
    for split, names in (
        ("train", ("train_1_a_1", "train_1_a_2")),
        ("validation", ("valid_1_a_1",)),
    ):
        rows = [f'{name}.nii.gz,Siemens,"[0.7, 0.7]"' for name in names]
        text = "\n".join(["VolumeName,Manufacturer,XYSpacing", *rows]) + "\n"
        (folder / f"{split}_metadata.csv").write_text(text)
    (folder / "no_chest_train.txt").write_text("train/train_3/train_3_a/train_3_a_1.nii.gz\n")
    return scans


@pytest.fixture
def large(repository: CtRateFolder) -> Path:
    """train_11_a_1 with random content, large enough to interrupt its download."""
    path = next(repository.root.rglob("train_11_a_1.nii.gz"))
    path.write_bytes(np.random.default_rng(0).bytes(NOISE_BYTES))
    return path


@pytest.fixture
def hub(repository: CtRateFolder) -> Iterator[HubStandIn]:
    with HubStandIn(repository.root) as stand_in:
        yield stand_in


@pytest.fixture
def machine(hub: HubStandIn, tmp_path: Path) -> Machine:
    folder = tmp_path / "mächine 1"
    folder.mkdir()
    return Machine(hub, folder)
