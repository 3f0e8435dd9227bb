"""The doctor in real houses, whole and broken."""

import fcntl
import logging
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import termios
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from conftest import CtRateFolder
from multi_abnormality.console import log
from multi_abnormality.data.receipts import Receipt, receipt_path, write_receipt
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.doctor.__main__ import examine, main
from multi_abnormality.doctor.checkpoint import look_at_checkpoint
from multi_abnormality.doctor.house import DOUBT, FAULT, WELL, House, Seen
from multi_abnormality.doctor.listen import warnings_kept
from multi_abnormality.doctor.machine import look_at_device
from multi_abnormality.doctor.model import look_at_model, look_at_split
from multi_abnormality.doctor.packages import look_at_drive_client
from multi_abnormality.doctor.project import look_at_dask, look_at_data, look_at_params
from multi_abnormality.doctor.remotes import look_at_dvc_remote, look_at_git
from multi_abnormality.errors import InputError
from multi_abnormality.findings import FINDINGS
from multi_abnormality.params import Params, load_params
from multi_abnormality.stages import preprocess, train
from multi_abnormality.training import files
from multi_abnormality.training.aside import Aside
from multi_abnormality.training.files import load_checkpoint, save_checkpoint
from multi_abnormality.training.fit import Places
from multi_abnormality.training.place import find_place
from multi_abnormality.training.ranks import Ranks
from test_console import read_all
from test_pipeline import BIN, ROOT, add_remote, make_project, run

DOCTOR = (sys.executable, "-m", "multi_abnormality.doctor")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a user's") / "Größe"
    make_project(folder / "project")
    add_remote(folder / "project", folder / "backup")
    return folder


@pytest.fixture
def house(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with scans and a remote, in which nothing has run yet."""
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    return shutil.copytree(built, tmp_path / "a house", symlinks=True) / "project"


def seen(house: Path) -> dict[str, tuple[str, str]]:
    """Of each part the worst that is said, and all that is, with the help."""
    parts: dict[str, tuple[str, str]] = {}
    for line in examine(House(house)):
        verdict, text = parts.get(line.part, (WELL, ""))
        worst = max(verdict, line.verdict, key=[WELL, DOUBT, FAULT].index)
        parts[line.part] = worst, f"{text}{line.text}\n{line.help}\n"
    return parts


def faults(house: Path) -> dict[str, str]:
    return {part: text for part, (verdict, text) in seen(house).items() if verdict == FAULT}


def test_a_whole_house_is_well(house: Path):
    done = subprocess.run(DOCTOR, cwd=house, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("FAIL")] == []
    assert "'backup' takes files: training backs itself up" in done.stdout
    assert "36 patients" in done.stdout
    assert "preprocess will run" in done.stdout
    assert "no remote: commits stay on this machine" in done.stdout
    assert lines[-1] == "A training can run here: `dvc repro`."
    assert list((house.parent / "backup").rglob("probe*")) == []
    assert run(house, "git", "status", "--porcelain") == ""


def test_outside_of_any_project_it_says_what_is_not_well(tmp_path: Path):
    done = subprocess.run([*DOCTOR, "--quiet"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert [line for line in done.stdout.splitlines() if line.startswith("ok")] == []
    assert "params.yaml: cannot be read" in done.stdout.replace("\n" + 20 * " ", " ")
    assert "not inside of a DVC repository" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_wrong_parameters_are_named(house: Path):
    params = yaml.safe_load((house / "params.yaml").read_text())
    params["train"]["epoch"] = 3
    (house / "params.yaml").write_text(yaml.safe_dump(params))
    assert "train.epoch: unknown key; did you mean epochs?" in faults(house)["params.yaml"]
    (house / "params.yaml").write_text("train: [1, 2")
    found = faults(house)
    assert "is not valid YAML" in found["params.yaml"]
    assert set(found) <= {"params.yaml", "stages"}


def test_what_hangs_on_wrong_parameters_is_not_looked_at(house: Path):
    (house / "params.yaml").unlink()
    (remote,) = look_at_dvc_remote(House(house))
    assert remote == Seen(DOUBT, "DVC remote", "not looked at: params.yaml says which it is")
    assert list(look_at_data(House(house))) == []
    assert [line.verdict for line in look_at_device(House(house))] == [WELL]


def test_what_the_device_cannot_do_is_a_fault(house: Path):
    params = yaml.safe_load((house / "params.yaml").read_text())
    params["machine"]["accelerator"], params["train"]["precision"] = "cpu", "float16"
    (house / "params.yaml").write_text(yaml.safe_dump(params))
    assert "float16 takes a GPU" in faults(house)["device"]


def test_without_dvc_folder(house: Path):
    shutil.rmtree(house / ".dvc")
    parts = seen(house)
    assert parts["stages"][0] == FAULT
    assert "not inside of a DVC repository" in parts["stages"][1]
    assert "nothing is backed up" in parts["DVC remote"][1]


def test_without_git(house: Path):
    shutil.rmtree(house / ".git")
    parts = seen(house)
    assert parts["Git"][0] == DOUBT
    assert "git init" in parts["Git"][1]
    assert parts["stages"][0] == FAULT  # `dvc repro` refuses as well
    assert "git init" in parts["stages"][1]


def test_a_git_remote_is_asked(house: Path):
    run(house.parent, "git", "init", "--quiet", "--bare", "origin.git")
    run(house, "git", "remote", "add", "origin", str(house.parent / "origin.git"))
    run(house, "git", "remote", "add", "gone", str(house.parent / "nowhere.git"))
    verdict, text = seen(house)["Git"]
    assert verdict == DOUBT
    assert "the remote 'origin' answers" in text
    assert "the remote 'gone' can't be asked" in text


def test_commits_on_no_branch_are_easily_lost(house: Path):
    run(house, "git", "checkout", "--quiet", "--detach")
    first, *_ = look_at_git(House(house))
    assert (first.verdict, first.help) == (DOUBT, "git switch main")
    assert "HEAD is on no branch" in first.text


@pytest.mark.parametrize("name", ["dvc.yaml", "dvc.lock", ".dvc/config"])
def test_a_damaged_file_of_dvc(house: Path, name: str):
    (house / name).write_text("stages: [\n")
    text = faults(house)["stages"]
    assert Path(name).name in text
    assert "git checkout" in text


def test_a_remote_that_cannot_be_written(house: Path):
    shutil.rmtree(house.parent / "backup", ignore_errors=True)
    (house.parent / "backup").write_text("in the way")
    found = faults(house)
    assert list(found) == ["DVC remote"]
    assert "can't be written" in found["DVC remote"]
    assert "dvc remote modify backup" in found["DVC remote"]


def test_without_a_remote_training_would_run_and_be_lost(house: Path):
    run(house, "dvc", "remote", "remove", "--local", "backup")
    verdict, text = seen(house)["DVC remote"]
    assert verdict == DOUBT
    assert "dvc remote add --default backup FOLDER" in text


def test_without_scans(house: Path, small_set):
    shutil.rmtree(house / "data")
    assert "dvc pull data" in faults(house)["data/"]
    shutil.copytree(small_set.root, house / "processed")
    verdict, text = seen(house)["data/"]
    assert verdict == DOUBT
    assert "dvc repro --allow-missing" in text
    done = subprocess.run(DOCTOR, cwd=house, capture_output=True, text=True)
    assert done.stdout.endswith("A training can run here: `dvc repro --allow-missing`.\n")


def test_scans_without_labels(house: Path):
    next(house.rglob("train_predicted_labels.csv")).unlink()
    assert "train_predicted_labels.csv: is missing" in faults(house)["data/"]


def test_what_is_in_the_way_of_a_folder(house: Path):
    (house / "checkpoints").write_text("in the way")
    (house / "processed").symlink_to(house.parent / "a disk that is not mounted")
    text = faults(house)["disk"]
    assert "checkpoints can't be written" in text
    assert "which is not there" in text


def test_another_python_would_run_the_stages(
    house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = Path(sys.base_prefix) / f"bin/python{sys.version_info.major}"
    if sys.base_prefix == sys.prefix or not other.exists():
        pytest.skip("there is no other Python")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(other)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert f"source {sys.prefix}/bin/activate" in faults(house)["Python"]


def test_other_versions_than_are_pinned(house: Path):
    shutil.copy(ROOT / "requirements.txt", house)
    pins = (house / "requirements.txt").read_text().splitlines()
    (house / "requirements.txt").write_text("\n".join([*pins, "numpy==1.0"]))
    verdict, text = seen(house)["packages"]
    assert verdict == DOUBT
    assert "not 1.0" in text
    assert "pip install --requirement requirements.txt" in text


def test_missing_packages_are_named(house: Path, tmp_path: Path):
    """Without torch, and without those that this project's own modules take first of all."""
    site = tmp_path / "site"
    site.mkdir()
    missing = ("torch", "pydantic", "rich", "yaml", "pandas")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name.partition("-")[0] not in missing and path.name != "PyYAML":
            (site / path.name).symlink_to(path)
    # Without -S Python would look into the environment's own folder.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "multi_abnormality.doctor"],
        cwd=house, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{site}"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    for name in missing:
        assert f"{name} is missing" in done.stdout
    assert "→ pip install --requirement requirements.txt" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("A training would fail here.")


def test_a_drive_client_that_cannot_start_is_a_fault_where_it_is_needed(
    house: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pydrive2.fs", None)  # as where it is not installed
    (client,) = look_at_drive_client(House(house))
    assert client.verdict == DOUBT
    run(house, "dvc", "remote", "modify", "--local", "backup", "url", "gdrive://root/backup")
    (client,) = look_at_drive_client(House(house))
    assert (client.verdict, client.help) == (FAULT, "pip install --requirement requirements.txt")
    assert re.search(r"can't start \(.+\): pydrive2 .+, cryptography \d", client.text)
    params = yaml.safe_load((house / "params.yaml").read_text())
    params["backup"]["remote"] = "off"
    (house / "params.yaml").write_text(yaml.safe_dump(params))
    (client,) = look_at_drive_client(House(house))
    assert client.verdict == DOUBT


def test_on_a_terminal_lines_have_colours_and_fit():
    program = (
        "from multi_abnormality.doctor.house import Seen\n"
        "from multi_abnormality.doctor.tell import tell\n"
        "tell(Seen('FAIL', 'disk', 'many words ' * 20, 'a command that is not broken ' * 4))"
    )
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 24, 70, 0, 0))
    environment = {name: os.environ[name] for name in os.environ.keys() - {"NO_COLOR", "COLUMNS"}}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=follower, env=environment):
        os.close(follower)
        first, *more, last = read_all(leader).decode().splitlines()
    assert first.startswith("\x1b[1;31mFAIL  \x1b[0mdisk          many words")
    assert {line[:20] for line in more} == {" " * 20}
    assert all(len(line) <= 70 for line in more)
    assert last.count("a command that is not broken") == 4


def test_a_training_that_runs_here(house: Path):
    lock = house / ".dvc/tmp/train.lock"
    program = (
        "import sys, pathlib; from multi_abnormality.training.lock import sole_training\n"
        "with sole_training(pathlib.Path(sys.argv[1])): print('holds', flush=True), input()"
    )
    command = [sys.executable, "-c", program, str(lock)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "holds\n"
        parts = seen(house)
        holder.stdin.write("\n")
        holder.stdin.close()
    assert parts["training"][0] == FAULT
    assert f"process {holder.pid} is training" in parts["training"][1]
    assert "not tried" in parts["DVC remote"][1]
    assert "training" not in seen(house)


def test_the_checkpoint_that_training_goes_on_from(house: Path, small_set, small_params):
    shutil.copytree(small_set.root, house / "processed")
    checkpoints = house / "checkpoints"
    places = Places(
        checkpoints, house / "logs", house / "history.csv", Aside(house / "aside", house)
    )

    def set_params(**changes: object) -> None:
        content = small_params.model_dump(mode="json")
        content["train"] |= changes
        (house / "params.yaml").write_text(yaml.safe_dump(content))

    set_params()
    assert "none: training starts at epoch 0" in seen(house)["checkpoint"][1]
    train.run(small_params, small_set.root, places, house / "train.json")
    assert "is of a finished training" in seen(house)["checkpoint"][1]
    set_params(learning_rate=0.5)
    before = sorted(path.name for path in checkpoints.iterdir())
    verdict, text = seen(house)["checkpoint"]
    assert verdict == DOUBT
    assert "training starts anew" in text
    assert "train.learning_rate: 0.001, now 0.5" in text
    assert "git checkout" not in text
    assert sorted(path.name for path in checkpoints.iterdir()) == before
    set_params()
    (checkpoints / "last.ckpt").write_bytes((checkpoints / "last.ckpt").read_bytes()[:1000])
    verdict, text = seen(house)["checkpoint"]
    assert verdict == DOUBT
    assert "last.ckpt: was cut short or altered" in text
    assert "best.ckpt is of a finished training" in text


@pytest.fixture(scope="module")
def trained(small_set: ProcessedSet, small_params: Params, tmp_path_factory) -> Path:
    """The checkpoints of a finished training of two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    settings = small_params.train.model_copy(update={"epochs": 2})
    params = small_params.model_copy(update={"train": settings})
    train.run(params, small_set.root, places_in(folder), folder / "train.json")
    return folder / "checkpoints"


def places_in(folder: Path) -> Places:
    aside = Aside(folder / ".dvc/tmp/trainings", folder / ".dvc/cache/files/md5")
    return Places(folder / "checkpoints", folder / "logs", folder / "history.csv", aside)


STATES: dict[str, dict[str, Any]] = {
    "as it was trained": {},
    "never": {"train.resume": "never", "train.epochs": 1},
    "fewer epochs": {"train.epochs": 1},
    "no backbone": {"model.backbone": "resnet99x"},
    "no pool": {"model.global_pool": "sideways"},
    "no weights file": {"model.pretrained": "absent.pth"},
    "no weights": {"model.pretrained": "params.yaml"},
    "no target": {"model.finetune": "lora"},
    "late": {"model.finetune": "progressive", "model.unfreeze_epoch": 2, "model.pretrained": False},
    "too few scans": {"train.batch_size": 100},
    "must, and another": {"train.resume": "must", "train.learning_rate": 0.5},
    "newer": {},
}


@pytest.mark.parametrize("state", STATES)
def test_the_doctor_fails_where_training_does(
    state: str, house: Path, small_set: ProcessedSet, small_params: Params, trained: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    shutil.rmtree(house / "data")
    (house / "processed").symlink_to(small_set.root)
    shutil.copytree(trained, house / "checkpoints")
    if state == "newer":
        last = house / "checkpoints/last.ckpt"
        content = load_checkpoint(last)
        monkeypatch.setattr(files, "FORMAT", files.FORMAT + 1)
        save_checkpoint(content, last)
        monkeypatch.undo()
    content = small_params.model_dump(mode="json")
    content["train"]["epochs"] = 2
    for key, value in STATES[state].items():
        section, name = key.split(".")
        content[section][name] = value
    (house / "params.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(house)
    looks = (look_at_params, look_at_data, look_at_split, look_at_checkpoint, look_at_model)
    at = House(Path())
    told = [line for look in looks for line in look(at)]
    found = [line.text for line in told if line.verdict == FAULT]
    try:
        train.run(load_params(), Path("processed"), places_in(Path()), house / "train.json")
        said = []
    except InputError as error:
        said = [str(error)]
    assert found == said
    assert (state in ("as it was trained", "never", "fewer epochs")) == (found == [])
    if state in ("never", "fewer epochs"):
        assert any("training starts anew" in line.text for line in told)


# Scans of a project (training patients, validation patients, reconstructions of each scan, files
# or rows too many) and its parameters; and whether the stages succeed.
TABLES: dict[str, tuple[dict[str, int], dict[str, Any], bool]] = {
    "enough": ({}, {}, True),
    "too few scans for a batch": ({"train": 4}, {}, False),
    "too few scans of two reconstructions": ({"train": 5, "each": 2}, {}, False),
    "enough reconstructions": ({"train": 5, "each": 2}, {"train.reconstructions": "all"}, True),
    "one patient": ({"train": 1, "each": 6}, {}, False),
    "no training patient": ({"train": 0}, {}, False),
    "no patient to score": ({"valid": 0}, {}, False),
    "one class to validate on": ({}, {"train.validation_fraction": 0.01}, False),
    "more devices than volumes": ({}, {"train.validation_fraction": 0.2, "machine.devices": 4},
                                  False),
    "a scan without labels": ({"unlabelled": 1}, {}, False),
    "labels without a scan": ({"missing": 1}, {}, False),
    "few scans, on purpose": ({"train": 14}, {"train.debug": "fast"}, True),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_the_doctor_predicts_from_the_tables_what_the_stages_do(
    kind: str, house: Path, small_params: Params, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    """Its exit code and reason, before the first scan is read; nobody has the last finding."""
    counts, changes, succeeds = TABLES[kind]
    shutil.rmtree(house / "data")
    scans = CtRateFolder(house / "data")
    for split, patients in (("train", counts.get("train", 8)), ("valid", counts.get("valid", 3))):
        for patient in range(1, patients + 1):
            positive = FINDINGS[patient % 2 : -1 : 2]
            for number in range(1, counts.get("each", 1) + 1):
                scans.add(f"{split}_{patient}_a_{number}", positive, seed=10 * patient + number)
    for number in range(counts.get("unlabelled", 0)):
        scans.add_file(f"train_{100 + number}_a_1")
    for number in range(counts.get("missing", 0)):
        scans.label(f"train_{200 + number}_a_1")
    scans.write_tables()
    content = small_params.model_dump(mode="json")
    content["backup"]["remote"] = "off"
    content["train"]["epochs"] = 1
    for key, value in changes.items():
        section, name = key.split(".")
        content[section][name] = value
    (house / "params.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(house)
    monkeypatch.setattr(sys, "argv", ["doctor", "--quiet"])
    code, said = main(), " ".join(capsys.readouterr().out.split())
    assert not (house / "processed").exists()

    params, out = load_params(), Path("processed")
    place = find_place(params.machine, torch.device("cpu"), params.train.batch_size)
    try:
        preprocess.run(params, Path("data"), out, house / "preprocess.json")
        with caplog.at_level(logging.WARNING, logger="multi_abnormality"):
            train.run(params, out, places_in(Path()), house / "train.json", ranks=Ranks(place))
        failure = ""
    except InputError as error:
        failure = " ".join(str(error).split())
    assert (code == 0, failure == "") == (succeeds, succeeds), said
    assert failure in said
    if failure:
        return
    rare = [line for line in caplog.messages if repr(FINDINGS[-1]) in line]
    assert len(rare) == (0 if "train.debug" in changes else 2)
    assert [line for line in rare if line not in said] == []


def test_volumes_whose_scans_are_gone_are_not_given_up(house: Path):
    """Other preprocess parameters, and only receipts of the scans: preprocess refuses."""
    scans = CtRateFolder(house / "data")
    shutil.rmtree(scans.root)
    for name in ("train_1_a_1", "train_2_a_1", "valid_1_a_1"):
        path = scans.add(name, FINDINGS[int(name[6]) :: 2], seed=1)
        write_receipt(Receipt("0" * 64, 1, name), receipt_path(path))
        path.unlink()
    scans.write_tables()
    (house / "processed").mkdir()
    (house / "processed/recipe.json").write_text("{}")
    assert "volumes were deleted after they were processed" in faults(house)["split"]


def test_a_debug_run_is_told_of_once(house: Path):
    params = yaml.safe_load((house / "params.yaml").read_text())
    params["train"]["debug"] = "fast"
    (house / "params.yaml").write_text(yaml.safe_dump(params))
    (checkpoint,) = look_at_checkpoint(House(house))
    assert (checkpoint.verdict, checkpoint.text) == (WELL, "none: training starts at epoch 0")
    _, told = look_at_model(House(house))
    assert "its scores mean nothing" in told.text


def test_weights_that_would_have_to_be_fetched_are_told(house: Path, monkeypatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    params = yaml.safe_load((house / "params.yaml").read_text())
    params["model"]["pretrained"] = True
    (house / "params.yaml").write_text(yaml.safe_dump(params))
    well, doubt = look_at_model(House(house))
    assert (well.verdict, doubt.verdict) == (WELL, DOUBT)
    assert "training fetches them from huggingface.co/timm/test_efficientnet" in doubt.text


def test_a_dask_scheduler_that_does_not_answer(house: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("multi_abnormality.data.work.cluster.CONNECT_SECONDS", 1)
    params = yaml.safe_load((house / "params.yaml").read_text())
    params["machine"]["dask"] = "tcp://127.0.0.1:9"
    (house / "params.yaml").write_text(yaml.safe_dump(params))
    (line,) = look_at_dask(House(house))
    assert line.verdict == FAULT
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in line.text


def test_without_stages(house: Path):
    (house / "dvc.yaml").unlink()
    assert "dvc.yaml" in faults(house)["stages"]


def test_what_reading_the_tables_warns_of_is_told():
    with warnings_kept() as told:
        log.warning("%s is left out", "a scan")
    assert told == ["a scan is left out"]
