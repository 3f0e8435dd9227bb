"""`--then-preprocess` against a download that keeps everything and a preprocess stage after it."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hub_stand_in import Fault
from multi_abnormality.data.ct_rate import read_ct_rate
from multi_abnormality.params import load_params
from multi_abnormality.stages import preprocess as stage

PROJECT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    """Of processed/ and its counts."""
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
def usual(machine, repository, tmp_path) -> dict[str, bytes]:
    """What the stage makes of all chest scans where their files are there."""
    set_params(machine)
    folder = tmp_path / "usual"
    shutil.copytree(repository.root, folder / "data")
    next(folder.rglob("train_3_a_1.nii.gz")).unlink()
    metrics = folder / "metrics/preprocess.json"
    stage.run(
        load_params(machine.folder / "params.yaml"), folder / "data", folder / "processed", metrics
    )
    return contents(folder)


def test_it_ends_with_the_same_processed_set_and_no_scans(machine, usual):
    machine.run("--then-preprocess")
    assert not machine.volumes()
    assert len(list(machine.data.rglob("*.nii.gz.receipt"))) == 6
    assert not list(machine.folder.glob("data.download/parts/*"))
    assert "0 volumes made, 6 kept" in preprocess(machine)
    assert contents(machine.folder) == usual
    assert "0 volumes made, 6 kept" in preprocess(machine)

    machine.hub.calls.clear()
    machine.run("--then-preprocess")
    assert not machine.hub.sent("/store/.*nii")
    assert contents(machine.folder) == usual  # nothing to do, so the finished set stays finished


def test_grown_from_receipts_and_files_it_is_the_same(machine, usual):
    machine.run("--then-preprocess", "--patients", "1")
    preprocess(machine)
    machine.run("--patients", "2", "--split", "train")
    machine.run("--then-preprocess")
    assert machine.volumes() == {"train_2_a_1", "train_2_b_1"}
    preprocess(machine)
    assert contents(machine.folder) == usual


def test_killed_again_and_again_it_loses_and_fetches_nothing_twice(machine, usual):
    for count in (1, 4):
        machine.hub.set_faults(Fault("slow", "nii", after=1000))
        process = machine.start("--then-preprocess", "--workers", "1")
        while len(list(machine.folder.glob("processed/.parts/*.zip"))) < count:
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        process.kill()
        process.communicate()
        # Of these something is there, so none of them may be asked for from its beginning.
        parts = [p for p in machine.folder.glob("data.download/parts/*nii.gz") if p.stat().st_size]
        begun = {path.name.partition(".")[0] for path in [*parts, *machine.data.rglob("*.receipt")]}
        machine.hub.calls.clear()
    machine.hub.set_faults()
    machine.run("--then-preprocess")
    anew = [call.path for call in machine.hub.calls if "/store/" in call.path and not call.range]
    assert not begun & {path.rpartition("/")[2].partition(".")[0] for path in anew}
    assert "0 volumes made, 6 kept" in preprocess(machine)
    assert contents(machine.folder) == usual


def test_a_kill_between_part_receipt_and_deletion_is_made_good(machine, usual, repository):
    machine.run("--then-preprocess")
    receipts = sorted(machine.data.rglob("*.receipt"))
    receipts[0].unlink()  # processed, and no receipt yet
    machine.run("--then-preprocess")
    assert sorted(machine.data.rglob("*.receipt")) == receipts
    raw = receipts[1].with_suffix("")  # a file beside its receipt is the file
    shutil.copyfile(repository.root / raw.relative_to(machine.data), raw)
    preprocess(machine)
    assert contents(machine.folder) == usual


def test_a_volume_that_cannot_be_used_is_named_and_stays(machine, repository):
    set_params(machine)
    next(repository.root.rglob("train_2_a_1.nii.gz")).write_text("no scan")
    said = machine.run("--then-preprocess", code=1)
    assert "1 of 6 volumes could not be fetched or used" in said
    assert "train_2_a_1" in said
    assert machine.volumes() == {"train_2_a_1"}
    assert "train_2_a_1" in machine.rows()
    assert "1 of 6 volumes cannot be used" in preprocess(machine, code=1)


def test_what_is_nowhere_else_is_not_thrown_away_for_other_parameters(machine):
    set_params(machine)
    machine.run("--then-preprocess", "--patients", "1")
    preprocess(machine)
    made = contents(machine.folder)
    set_params(machine, "spacing: [9.0,", "spacing: [8.0,")
    assert "3 of its volumes were deleted" in preprocess(machine, code=1)
    said = machine.run("--then-preprocess", "--patients", "2", "--split", "train", code=1)
    assert "3 of its volumes were deleted" in said
    assert contents(machine.folder) == made


def test_a_processed_set_that_is_lost_is_made_again(machine):
    set_params(machine)
    machine.run("--then-preprocess", "--patients", "1")
    shutil.rmtree(machine.folder / "processed")
    said = preprocess(machine, code=1)
    assert "3 of 3 volumes cannot be used" in said
    command = "--split train --patients 1 --version v2 --then-preprocess"
    assert f"`python -m multi_abnormality.download {command}` brings it back" in said
    machine.run("--then-preprocess", "--patients", "1")
    assert "0 volumes made, 3 kept" in preprocess(machine)


def test_a_new_row_of_the_metadata_does_not_cost_what_is_nowhere_else(machine, usual):
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
    assert contents(machine.folder) == usual


def test_a_damaged_receipt_costs_nothing_and_the_command_told_mends_it(machine, usual):
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
    assert contents(machine.folder) == usual


def test_a_plain_download_brings_the_files_back(machine, usual):
    machine.run("--then-preprocess")
    machine.hub.set_faults(Fault("unavailable", "train_2"))
    machine.run("--retries", "0", code=1)
    assert len(read_ct_rate(machine.data).volumes) == 6
    machine.hub.set_faults()
    machine.run()
    assert len(machine.volumes()) == 6
    assert not list(machine.data.rglob("*.receipt"))
    preprocess(machine)
    assert contents(machine.folder) == usual


def test_another_folder_than_the_pipelines_is_refused(machine):
    said = machine.run("--then-preprocess", "--out", "other", code=1)
    assert "--then-preprocess: the pipeline reads data/" in said
