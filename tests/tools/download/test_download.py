"""Downloads by huggingface_hub from a stand-in of the hub."""

import os
import resource
import shlex
import shutil
import time
from pathlib import Path

import nbformat
import pytest

from documents import ROOT
from hub_stand_in import Fault
from multi_abnormality.data.catalog.ct_rate import read_ct_rate
from multi_abnormality.tools.download.hub import CHUNK_BYTES

ALL = {"train_1_a_1", "train_1_a_2", "train_2_a_1", "train_2_b_1", "train_11_a_1", "valid_1_a_1"}
LARGE = "train_11_a_1"
LIMIT_BYTES = 3_500_000


def part_size(machine) -> int:
    return sum(part.stat().st_size for part in machine.folder.glob(f"data.download/parts/{LARGE}*"))


def interrupt(machine, *arguments: str) -> int:
    """Kill a download in the middle of the large file; return the size of the partial file."""
    machine.hub.set_faults(Fault("slow", LARGE, after=100_000))
    process = machine.start(*arguments)
    while part_size(machine) < 2_000_000:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.kill()
    process.communicate()
    machine.hub.set_faults()
    return part_size(machine)


def test_download_without_scans_of_other_regions(machine, repository):
    output = machine.run()
    assert "4 patients, 6 volumes" in output
    assert "next: `dvc add data`, then `dvc repro`" in output
    catalogue = read_ct_rate(machine.data)
    assert set(catalogue.volumes["name"]) == ALL
    assert catalogue.volumes.set_index("name").loc["train_1_a_2", "Manufacturer"] == "Siemens"
    assert catalogue.volumes["Emphysema"].tolist() == [1, 1, 0, 0, 0, 0]
    for path in machine.data.rglob("*.nii.gz"):
        assert path.read_bytes() == (repository.root / path.relative_to(machine.data)).read_bytes()

    machine.hub.calls.clear()
    assert "0 of them to fetch" in machine.run()
    assert not machine.hub.sent("/store/")


def test_folder_contains_only_scans_tables_and_lists(machine):
    machine.run()
    names = {path.name for path in machine.data.rglob("*") if path.is_file()}
    assert {name for name in names if not name.endswith(".nii.gz")} == {
        "train_predicted_labels.csv",
        "valid_predicted_labels.csv",
        "train_metadata.csv",
        "validation_metadata.csv",
        "no_chest_train.txt",
    }


def test_select_patients_splits_and_first_reconstructions(machine):
    machine.run("--split", "train", "--patients", "1, 3-11", "--reconstructions", "first", code=1)
    output = machine.run("--split", "train", "--patients", "1-3,11", "--reconstructions", "first")
    assert machine.volumes() == {"train_1_a_1", "train_2_a_1", "train_2_b_1", "train_11_a_1"}
    assert not machine.hub.sent("train_1_a_2")
    assert "no volume of the test split" in output


def test_first_reconstruction_that_is_not_excluded_is_selected(machine, repository):
    lists = repository.root / "dataset/metadata/no_chest_train.txt"
    lists.write_text("train_1_a_1.nii.gz\n")
    machine.run("--patients", "1", "--reconstructions", "first")
    assert machine.volumes() == {"train_1_a_2", "valid_1_a_1"}


@pytest.mark.slow
def test_size_limit_selects_whole_patients(machine, repository):
    size = next(repository.root.rglob("train_1_a_1.nii.gz")).stat().st_size
    machine.run("--max-gb", str(3.5 * size / 1e9))
    assert machine.volumes() == {"train_1_a_1", "train_1_a_2"}
    machine.run("--max-gb", str(5.5 * size / 1e9))
    assert machine.volumes() == ALL - {LARGE}
    output = machine.run("--max-gb", str(size / 1e9), "--out", "other", code=1)
    assert "the first patient alone has" in output


def test_version_1_is_in_its_own_folder(machine, repository):
    path = next(repository.root.rglob("train_2_a_1.nii.gz"))
    v1 = repository.root / "dataset/train/train_2/train_2_a/train_2_a_1.nii.gz"
    v1.parent.mkdir(parents=True)
    shutil.copyfile(path, v1)
    output = machine.run("--version", "v1", "--patients", "2", "--split", "train")
    assert "1 volume has labels but is not on the hub: train_2_b_1" in output
    assert (machine.data / v1.relative_to(repository.root)).exists()
    assert machine.rows() == ["train_2_a_1"]
    assert "in another version" in machine.run("--patients", "2", "--split", "train", code=1)


def test_tables_grow_and_keep_user_entries(machine, repository):
    machine.run("--split", "train", "--patients", "2")
    assert machine.rows() == ["train_2_a_1", "train_2_b_1"]
    table = machine.data / "dataset/multi_abnormality_labels/train_predicted_labels.csv"
    own = "train_90000_a_1.nii.gz" + ",1" * 18 + "\n"
    table.write_text(table.read_text() + own)
    scan = machine.data / "dataset/train_fixed/train_90000/train_90000_a/train_90000_a_1.nii.gz"
    scan.parent.mkdir(parents=True)
    shutil.copyfile(next(repository.root.rglob("valid_1_a_1.nii.gz")), scan)
    with (machine.data / "dataset/metadata/no_chest_train.txt").open("a") as lists:
        lists.write("train_11_a_1\n")

    machine.run("--patients", "1-3,11")
    assert machine.rows() == [
        *("train_1_a_1", "train_1_a_2", "train_2_a_1", "train_2_b_1", "train_90000_a_1")
    ]
    assert own in table.read_text()
    assert machine.rows("valid") == ["valid_1_a_1"]
    lists = (machine.data / "dataset/metadata/no_chest_train.txt").read_text()
    assert lists == "train/train_3/train_3_a/train_3_a_1.nii.gz\ntrain_11_a_1\n"
    read_ct_rate(machine.data)


@pytest.mark.slow
def test_killed_download_resumes_inside_file(machine, large):
    size = interrupt(machine, "--workers", "1", "--split", "train")
    assert machine.volumes() == ALL - {LARGE, "valid_1_a_1"}
    assert set(machine.rows()) == machine.volumes()
    machine.hub.calls.clear()
    machine.run()
    assert machine.hub.sent(f"store.*{LARGE}") == large.stat().st_size - size
    assert not machine.hub.sent("store.*train_1_a_1")
    assert next(machine.data.rglob(f"{LARGE}.nii.gz")).read_bytes() == large.read_bytes()
    assert not list(machine.folder.glob("data.download/parts/*"))


def test_partial_file_of_another_version_is_not_resumed(machine, large):
    interrupt(machine, "--patients", "11", "--split", "train")
    large.write_bytes(large.read_bytes()[::-1])
    machine.run("--patients", "11", "--split", "train")
    assert next(machine.data.rglob(f"{LARGE}.nii.gz")).read_bytes() == large.read_bytes()


def test_incomplete_tables_after_a_kill_are_fixed(machine):
    machine.run()
    expected = {split: machine.rows(split) for split in ("train", "valid")}
    tables = machine.data / "dataset/multi_abnormality_labels"
    lines = (tables / "train_predicted_labels.csv").read_text().splitlines(keepends=True)
    (tables / "train_predicted_labels.csv").write_text("".join(lines[:3]))
    (tables / "valid_predicted_labels.csv").unlink()
    machine.run("--split", "train", "--patients", "1")
    assert {split: machine.rows(split) for split in expected} == expected


def test_lost_connection_and_overloaded_hub_are_retried(machine, large):
    cut = Fault("cut", LARGE, after=2_500_000, times=1)
    machine.hub.set_faults(cut, Fault("unavailable", "train_1_a_1", times=1))
    output = machine.run()
    assert "retrying in 1 s" in output
    assert machine.volumes() == ALL
    sent = machine.hub.sent(f"store.*{LARGE}")
    assert sent - large.stat().st_size <= CHUNK_BYTES


def test_wrong_content_is_rejected_and_others_kept(machine):
    machine.hub.set_faults(Fault("wrong", "train_2_a_1"))
    output = machine.run(code=1)
    assert "1 of 6 volumes could not be fetched" in output
    assert "train_2_a_1.nii.gz: did not match the hub's hash twice" in output
    assert set(read_ct_rate(machine.data).volumes["name"]) == ALL - {"train_2_a_1"}
    machine.hub.set_faults()
    machine.run()
    assert machine.volumes() == ALL


def test_permanent_failures_are_listed_and_others_fetched(machine):
    machine.hub.set_faults(Fault("unavailable", "train_2"))
    output = machine.run("--retries", "1", code=1)
    assert "2 of 6 volumes could not be fetched" in output
    assert "train_2_b_1.nii.gz: status 503" in output
    assert set(machine.rows()) == {"train_1_a_1", "train_1_a_2", LARGE}


def test_damaged_scan_is_fetched_again(machine):
    machine.run()
    path = next(machine.data.rglob("train_2_a_1.nii.gz"))
    expected = path.read_bytes()
    path.write_bytes(expected[:100])
    assert "1 of them to fetch" in machine.run()
    assert path.read_bytes() == expected


def test_sample_scans_are_not_mixed_with_patients(machine, repository):
    shutil.copytree(repository.root, machine.data)
    for path in machine.data.rglob("train_*.nii.gz"):
        path.write_bytes(path.read_bytes() + b"other")
    before = {path: path.read_bytes() for path in machine.data.rglob("*.*")}
    for arguments in (["--patients", "1"], ["--split", "test"]):
        output = machine.run(*arguments, code=1)
        assert "These may be the sample scans" in output
    assert {path: path.read_bytes() for path in machine.data.rglob("*.*")} == before


def test_existing_scans_are_reused(machine, repository):
    shutil.copytree(repository.root, machine.data)
    output = machine.run()
    assert "0 of them to fetch" in output


@pytest.mark.parametrize("token", ["hf_standin", ""])
def test_gated_dataset_explains_how_to_get_access(machine, token):
    machine.hub.access = "unaccepted"
    machine.environment["HF_TOKEN"] = token
    output = machine.run(code=1)
    assert "CT-RATE is gated" in output
    assert "accept its terms" in output
    assert "hf auth login" in output
    assert len(machine.hub.calls) < 4


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--patients", "1-12"],
            "has no patient 4, 5, 6, 7, 8 and 3 more; their numbers range from 1",
        ),
        (["--patients", "3"], "none of these has a chest scan"),
        (["--patients", "1-x"], "'1-x' is not a number or range"),
        (["--patients", "9-2"], "'9-2' is not a number or range"),
        (["--revision", "nightly"], "--revision nightly: ibrahimhamamci/CT-RATE has no such"),
        (["--version", "v1"], "the hub has no v1 volume of these patients"),
        (["--out", "/proc/data"], "--out /proc/data: cannot be created"),
        (["--out", "/proc"], "--out /proc: is a mount point"),
    ],
)
def test_invalid_argument_is_an_error(machine, arguments, expected):
    assert expected in machine.run(*arguments, code=1)
    assert not machine.volumes()


def test_revision_without_labels_is_an_error(machine, repository):
    repository.table("valid").unlink()
    assert "valid_predicted_labels.csv: is not on the hub" in machine.run(code=1)
    repository.table("train").unlink()
    assert "--revision main: has no dataset/multi_abnormality_labels" in machine.run(code=1)


def test_missing_network_is_an_error(machine):
    machine.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    assert "http://127.0.0.1:9 cannot be reached" in machine.run("--retries", "0", code=1)


def test_offline_mode_sends_no_requests(machine):
    machine.environment["HF_HUB_OFFLINE"] = "1"
    assert "HF_HUB_OFFLINE is set; unset it to download" in machine.run(code=1)
    assert not machine.hub.calls


def test_download_that_does_not_fit_is_an_error_at_the_start(machine, repository):
    free = shutil.disk_usage(machine.folder).free
    path = next(repository.root.rglob(f"{LARGE}.nii.gz")).relative_to(repository.root)
    machine.hub.claimed_sizes[path.as_posix()] = 2 * free
    output = machine.run(code=1)
    assert "GB free, but the download needs" in output
    assert "--reconstructions first, or free disk space" in output
    assert not machine.volumes()


def test_full_disk_keeps_downloaded_data(machine, large):
    def limit() -> None:  # maximum file size
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))

    output = machine.run("--workers", "1", "--split", "train", code=1, preexec_fn=limit)
    assert "cannot be written (File too large)" in output
    assert set(machine.rows()) == machine.volumes() != set()
    machine.hub.calls.clear()
    machine.run()
    assert machine.hub.sent(f"store.*{LARGE}") == large.stat().st_size - LIMIT_BYTES


@pytest.mark.usefixtures("large")
def test_concurrent_downloads_to_one_folder_are_an_error(machine):
    machine.hub.set_faults(Fault("slow", LARGE, after=1000))  # takes minutes
    first = machine.start("--split", "train")
    while not machine.hub.sent(f"store.*{LARGE}"):
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    assert "another process downloads to it" in machine.run(code=1)
    first.terminate()
    first.communicate()


def test_scans_on_a_linked_disk(machine, tmp_path):
    other = Path("/dev/shm") / tmp_path.name
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no second disk here")
    other.mkdir()
    try:
        (machine.data / "dataset").mkdir(parents=True)
        (machine.data / "dataset/train_fixed").symlink_to(other)
        machine.run()
        assert len(read_ct_rate(machine.data).volumes) == 6
        assert len(list(other.rglob("*.nii.gz"))) == 5
    finally:
        shutil.rmtree(other)


def test_the_notebooks_command_downloads_first_reconstructions_of_both_splits(machine):
    first = nbformat.read(ROOT / "notebooks/colab.ipynb", nbformat.NO_CONVERT).cells[1]
    settings: dict = {}
    exec(first.source, settings)
    command = shlex.split(settings["RUNS"]["ct-rate"]["data"])
    assert command[:4] == ["python", "-m", "multi_abnormality", "download"]
    options = command[4:]
    machine.run(*(option.replace("1-100", "1-3") for option in options))
    assert machine.volumes() == {"train_1_a_1", "train_2_a_1", "train_2_b_1", "valid_1_a_1"}
