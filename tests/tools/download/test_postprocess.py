"""`--then-preprocess` compared with a plain download and a preprocess stage after it."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hub_stand_in import Fault
from multi_abnormality.config.schema import load_params
from multi_abnormality.data.catalog.ct_rate import read_ct_rate
from multi_abnormality.stages import preprocess as stage

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[3]


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of processed/ and the preprocess metrics."""
    files = [path for path in folder.glob("processed/**/*") if path.is_file()]
    files.append(folder / "metrics/preprocess.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def preprocess(machine, code: int = 0) -> str:
    process = subprocess.run(
        [sys.executable, "-m", "multi_abnormality.stages.preprocess"],
        cwd=machine.folder,
        capture_output=True,
        text=True,
    )
    assert process.returncode == code, process.stderr
    return " ".join(process.stderr.split())


def set_params(machine, old: str = "", new: str = "") -> None:
    text = (PROJECT / "params.yaml").read_text().replace("workers: auto", "workers: 1")
    assert old in text
    (machine.folder / "params.yaml").write_text(text.replace(old, new))


@pytest.fixture
def expected(machine, repository, tmp_path) -> dict[str, bytes]:
    """Outputs of the preprocess stage for all chest scans from files."""
    set_params(machine)
    folder = tmp_path / "expected"
    shutil.copytree(repository.root, folder / "data")
    next(folder.rglob("train_3_a_1.nii.gz")).unlink()
    metrics = folder / "metrics/preprocess.json"
    stage.run(
        load_params(machine.folder / "params.yaml"), folder / "data", folder / "processed", metrics
    )
    return contents(folder)


def test_same_processed_dataset_without_scans(machine, expected):
    machine.run("--then-preprocess")
    assert not machine.volumes()
    assert len(list(machine.data.rglob("*.nii.gz.receipt"))) == 6
    assert not list(machine.folder.glob("data.download/parts/*"))
    assert "0 volumes made, 6 kept" in preprocess(machine)
    assert contents(machine.folder) == expected
    assert "0 volumes made, 6 kept" in preprocess(machine)

    machine.hub.calls.clear()
    machine.run("--then-preprocess")
    assert not machine.hub.sent("/store/.*nii")
    assert contents(machine.folder) == expected  # unchanged


def test_placeholders_and_files_mixed(machine, expected):
    machine.run("--then-preprocess", "--patients", "1")
    preprocess(machine)
    machine.run("--patients", "2", "--split", "train")
    machine.run("--then-preprocess")
    assert machine.volumes() == {"train_2_a_1", "train_2_b_1"}
    preprocess(machine)
    assert contents(machine.folder) == expected


def test_kills_lose_nothing_and_nothing_is_fetched_twice(machine, expected):
    for count in (1, 4):
        machine.hub.set_faults(Fault("slow", "nii", after=1000))
        process = machine.start("--then-preprocess", "--workers", "1")
        while len(list(machine.folder.glob("processed/.parts/*.zip"))) < count:
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        process.kill()
        process.communicate()
        # Partially or completely downloaded, so never requested from the first byte again.
        parts = [p for p in machine.folder.glob("data.download/parts/*nii.gz") if p.stat().st_size]
        started = {
            path.name.partition(".")[0] for path in [*parts, *machine.data.rglob("*.receipt")]
        }
        machine.hub.calls.clear()
    machine.hub.set_faults()
    machine.run("--then-preprocess")
    full_requests = [
        call.path for call in machine.hub.calls if "/store/" in call.path and not call.range
    ]
    assert not started & {path.rpartition("/")[2].partition(".")[0] for path in full_requests}
    assert "0 volumes made, 6 kept" in preprocess(machine)
    assert contents(machine.folder) == expected


def test_kill_between_processing_and_deletion(machine, expected, repository):
    machine.run("--then-preprocess")
    receipts = sorted(machine.data.rglob("*.receipt"))
    receipts[0].unlink()  # processed, but no placeholder yet
    machine.run("--then-preprocess")
    assert sorted(machine.data.rglob("*.receipt")) == receipts
    raw = receipts[1].with_suffix("")  # a file takes precedence over its placeholder
    shutil.copyfile(repository.root / raw.relative_to(machine.data), raw)
    preprocess(machine)
    assert contents(machine.folder) == expected


def test_unusable_volume_is_reported_and_kept(machine, repository):
    set_params(machine)
    next(repository.root.rglob("train_2_a_1.nii.gz")).write_text("no scan")
    output = machine.run("--then-preprocess", code=1)
    assert "1 of 6 volumes could not be fetched or used" in output
    assert "train_2_a_1" in output
    assert machine.volumes() == {"train_2_a_1"}
    assert "train_2_a_1" in machine.rows()
    assert "1 of 6 volumes cannot be used" in preprocess(machine, code=1)


def test_volumes_without_scans_are_kept_for_other_parameters(machine):
    set_params(machine)
    machine.run("--then-preprocess", "--patients", "1")
    preprocess(machine)
    made = contents(machine.folder)
    set_params(machine, "spacing: [6.75,", "spacing: [8.0,")
    assert "3 of its volumes were deleted" in preprocess(machine, code=1)
    output = machine.run("--then-preprocess", "--patients", "2", "--split", "train", code=1)
    assert "3 of its volumes were deleted" in output
    assert contents(machine.folder) == made


def test_lost_processed_dataset_is_recreated(machine):
    set_params(machine)
    machine.run("--then-preprocess", "--patients", "1")
    shutil.rmtree(machine.folder / "processed")
    output = preprocess(machine, code=1)
    assert "3 of 3 volumes cannot be used" in output
    command = "--split train --patients 1 --version v2 --then-preprocess"
    assert f"`multi-abnormality download {command}` brings it back" in output
    machine.run("--then-preprocess", "--patients", "1")
    assert "0 volumes made, 3 kept" in preprocess(machine)


def test_changed_metadata_keeps_volumes_without_scans(machine, expected):
    machine.run("--then-preprocess")
    preprocess(machine)
    table = machine.data / "dataset/metadata/train_metadata.csv"
    was = table.read_text()
    table.write_text(was.replace("[0.7, 0.7]", "[0.9, 0.9]", 1))
    assert "0 volumes made, 6 kept" in preprocess(machine)
    table.unlink()
    preprocess(machine)
    table.write_text(was)
    preprocess(machine)
    assert contents(machine.folder) == expected


def test_damaged_placeholder_is_fixed_by_the_suggested_command(machine, expected):
    machine.run("--then-preprocess")
    preprocess(machine)
    receipt = next(machine.data.rglob("train_1_a_1*.receipt"))
    was = receipt.read_text()
    receipt.write_text("{}")
    assert "brings it back" in preprocess(machine, code=1)
    receipt.write_text(was)
    assert "0 volumes made, 6 kept" in preprocess(machine)
    receipt.write_text("{}")
    machine.run("--split", "train", "--patients", "1", "--version", "v2", "--then-preprocess")
    preprocess(machine)
    assert contents(machine.folder) == expected


def test_plain_download_restores_scans(machine, expected):
    machine.run("--then-preprocess")
    machine.hub.set_faults(Fault("unavailable", "train_2"))
    machine.run("--retries", "0", code=1)
    assert len(read_ct_rate(machine.data).volumes) == 6
    machine.hub.set_faults()
    machine.run()
    assert len(machine.volumes()) == 6
    assert not list(machine.data.rglob("*.receipt"))
    preprocess(machine)
    assert contents(machine.folder) == expected


def test_other_folder_is_an_error(machine):
    output = machine.run("--then-preprocess", "--out", "other", code=1)
    assert "--then-preprocess: the pipeline reads data/" in output
