"""Download commands of the documentation, run as written."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import CtRateFolder
from documents import ROOT, Command, commands, documents
from hub_stand_in import HubStandIn
from multi_abnormality.data.catalog.volume_id import CT_RATE_SPLITS
from test_pipeline import BIN

COMMANDS = [
    command
    for document in documents()
    for command in commands(document)
    if "multi-abnormality download" in command.text
]
PATIENTS = 200


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubStandIn]:
    """Patients 1 to 200 of both splits; every tenth scan has two reconstructions."""
    scans = CtRateFolder(tmp_path_factory.mktemp("repository"))
    for split in ("train", "valid"):
        for patient in range(1, PATIENTS + 1):
            scans.add(f"{split}_{patient}_a_1", seed=patient)
            if patient % 10 == 0:
                scans.add(f"{split}_{patient}_a_2", seed=patient)
    scans.write_tables()
    with HubStandIn(scans.root) as stand_in:
        yield stand_in


def test_documentation_has_download_commands():
    assert {Path(command.place.partition(":")[0]).name for command in COMMANDS} >= {"ct-rate.md"}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.place)
def test_each_documented_command_downloads(command: Command, hub: HubStandIn, tmp_path: Path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path} | hub.environment(tmp_path / "home")
    done = subprocess.run(
        ["bash", "-c", command.text], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kept = {path.name.partition(".")[0] for path in tmp_path.glob("data/**/*.nii.gz*")}
    splits = {name.partition("_")[0] for name in kept}
    prefixes = {CT_RATE_SPLITS[word] for word in command.text.split() if word in CT_RATE_SPLITS}
    assert splits == (prefixes or {"train", "valid"})
    seconds = {name for name in kept if name.endswith("_2")}
    assert bool(seconds) == ("--reconstructions first" not in command.text)
    is_processed = "--then-preprocess" in command.text
    assert bool([*tmp_path.glob("data/**/*.nii.gz")]) != is_processed
    assert (tmp_path / "processed").exists() == is_processed
