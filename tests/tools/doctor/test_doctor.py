"""The doctor in real projects, intact and broken."""

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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from conftest import CtRateFolder
from drive_stand_in import write_remote
from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.config.schema import Params, load_params
from multi_abnormality.data.catalog.placeholders import (
    Placeholder,
    placeholder_path,
    write_placeholder,
)
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.runtime import checkpoint_io
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.checkpoint_io import load_checkpoint, save_checkpoint
from multi_abnormality.runtime.process_group import find_rank
from multi_abnormality.runtime.training_run import RunPaths
from multi_abnormality.stages import preprocess, train
from multi_abnormality.tools.doctor.check_checkpoint import check_checkpoint
from multi_abnormality.tools.doctor.check_machine import check_device, check_disks
from multi_abnormality.tools.doctor.check_model import check_model, check_split
from multi_abnormality.tools.doctor.check_packages import check_packages, check_python
from multi_abnormality.tools.doctor.check_project import (
    check_data,
    check_no_other_training,
    check_params,
    check_stages,
)
from multi_abnormality.tools.doctor.check_remotes import check_dvc_remote, check_git
from multi_abnormality.tools.doctor.context import (
    FAIL,
    OK,
    WARN,
    Check,
    CheckResult,
    DoctorContext,
    captured_warnings,
    run_check,
)
from multi_abnormality.tools.doctor.doctor import examine
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError
from terminal import read_all
from test_pipeline import BIN, ROOT, run

DOCTOR = (sys.executable, "-m", "multi_abnormality", "doctor")


@pytest.fixture
def project(new_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with scans and a remote, in which nothing has run yet."""
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    folder = tmp_path / "a user's" / "Größe"
    shutil.copytree(new_project, folder / "project", symlinks=True)
    write_remote(folder / "project", "backup", {"url": str(folder / "backup")})
    return folder / "project"


def run_one(check: Check, project: Path) -> list[CheckResult]:
    return list(run_check("part", check, DoctorContext(project)))


def summary(lines: list[CheckResult]) -> tuple[str, str]:
    """Worst status of some results, and the text and help of all of them."""
    worst = max((line.status for line in lines), key=[OK, WARN, FAIL].index)
    return worst, "".join(f"{line.text}\n{line.help}\n" for line in lines)


def summary_of(check: Check, project: Path) -> tuple[str, str]:
    return summary(run_one(check, project))


def failure_of(check: Check, project: Path) -> str:
    status, text = summary_of(check, project)
    assert status == FAIL
    return text


def results(project: Path) -> dict[str, tuple[str, str]]:
    """Summary of each part, from all checks."""
    parts: dict[str, list[CheckResult]] = {}
    for line in examine(DoctorContext(project)):
        parts.setdefault(line.part, []).append(line)
    return {part: summary(lines) for part, lines in parts.items()}


def failures(project: Path) -> dict[str, str]:
    return {part: text for part, (status, text) in results(project).items() if status == FAIL}


@pytest.mark.slow
def test_an_intact_project_passes_all_checks(project: Path):
    done = subprocess.run(DOCTOR, cwd=project, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("FAIL")] == []
    assert "'backup' can be written: training will be backed up" in done.stdout
    assert "36 patients" in done.stdout
    assert "preprocess, train, evaluate, export will run" in done.stdout
    assert "no remote: commits exist only on this machine" in done.stdout
    assert lines[-1] == "Training can run here: `dvc repro`."
    assert list((project.parent / "backup").rglob("probe*")) == []
    assert run(project, "git", "status", "--porcelain") == ""


def test_quiet_shows_only_failures_outside_of_a_project(tmp_path: Path):
    done = subprocess.run([*DOCTOR, "--quiet"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert [line for line in done.stdout.splitlines() if line.startswith("ok")] == []
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert failed[-1].startswith("FAIL  project       not the project's folder")
    assert "→ cd to the project's folder\n" in done.stdout
    assert "params.yaml" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_volume_smaller_than_a_chest_is_a_warning(project: Path):
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["preprocess"] |= {"spacing": [0.9, 0.5, 0.5], "shape": [28, 56, 72]}  # cm, not mm
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    _, warned = check_params(DoctorContext(project))
    assert warned.status == WARN
    assert "keep only 25.2 x 28 x 36 mm (z, y, x) of each scan" in warned.text


def test_wrong_parameters_are_named(project: Path):
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["train"]["epoch"] = 3
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    assert "train.epoch: unknown key; did you mean epochs?" in failure_of(check_params, project)
    (project / "params.yaml").write_text("train: [1, 2")
    found = failures(project)
    assert "is not valid YAML" in found["params.yaml"]
    assert set(found) <= {"params.yaml", "stages"}


def test_checks_that_need_valid_parameters_are_skipped(project: Path):
    (project / "params.yaml").unlink()
    (remote,) = run_one(check_dvc_remote, project)
    assert remote == CheckResult(WARN, "not checked: it depends on params.yaml", part="part")
    assert run_one(check_data, project) == []
    assert [line.status for line in run_one(check_device, project)] == [OK]


def test_a_precision_that_the_device_lacks_fails(project: Path):
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["machine"]["accelerator"], params["train"]["precision"] = "cpu", "float16"
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    assert "float16 takes a GPU" in failure_of(check_device, project)


def test_a_project_without_dvc_is_a_failure(project: Path):
    shutil.rmtree(project / ".dvc")
    parts = results(project)
    assert parts["stages"][0] == FAIL
    assert "not inside of a DVC repository" in parts["stages"][1]
    assert "nothing is backed up" in parts["DVC remote"][1]


def test_a_project_without_git_is_a_failure(project: Path):
    shutil.rmtree(project / ".git")
    parts = results(project)
    assert parts["Git"][0] == WARN
    assert "git init" in parts["Git"][1]
    assert parts["stages"][0] == FAIL  # `dvc repro` refuses as well
    assert "git init" in parts["stages"][1]


def test_a_detached_head_is_a_warning(project: Path):
    run(project, "git", "checkout", "--quiet", "--detach")
    first, *_ = run_one(check_git, project)
    assert (first.status, first.help) == (WARN, "git switch main")
    assert "HEAD is detached" in first.text


@pytest.mark.parametrize("name", ["dvc.yaml", "dvc.lock", ".dvc/config"])
def test_a_damaged_file_of_dvc(project: Path, name: str):
    (project / name).write_text("stages: [\n")
    text = failure_of(check_stages, project)
    assert Path(name).name in text
    assert "git checkout" in text


def test_a_remote_that_cannot_be_written(project: Path):
    shutil.rmtree(project.parent / "backup", ignore_errors=True)
    (project.parent / "backup").write_text("in the way")
    text = failure_of(check_dvc_remote, project)
    assert "can't be written" in text
    assert "dvc remote modify backup" in text


def test_a_missing_remote_is_a_warning(project: Path):
    run(project, "dvc", "remote", "remove", "--local", "backup")
    status, text = summary_of(check_dvc_remote, project)
    assert status == WARN
    assert "dvc remote add --default backup FOLDER" in text


@pytest.mark.slow
def test_missing_scans_are_a_failure_unless_they_are_processed(project: Path, small_set):
    shutil.rmtree(project / "data")
    failed = failures(project)
    assert "dvc pull data" in failed["data/"]
    assert "split" not in failed
    shutil.copytree(small_set.root, project / "processed")
    status, text = summary_of(check_data, project)
    assert status == WARN
    assert "dvc repro --allow-missing" in text
    printed = run(project, "python", "-m", "multi_abnormality", "doctor")
    assert printed.endswith("Training can run here: `dvc repro --allow-missing`.\n")


def test_scans_without_labels(project: Path):
    next(project.rglob("train_predicted_labels.csv")).unlink()
    assert "train_predicted_labels.csv: is missing" in failure_of(check_data, project)


def test_outputs_that_cannot_be_written_fail(project: Path):
    (project / "checkpoints").write_text("in the way")
    (project / "processed").symlink_to(project.parent / "a disk that is not mounted")
    text = failure_of(check_disks, project)
    assert "checkpoints can't be written" in text
    assert "which does not exist" in text


def test_another_python_would_run_the_stages(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = Path(sys.base_prefix) / f"bin/python{sys.version_info.major}"
    if sys.base_prefix == sys.prefix or not other.exists():
        pytest.skip("there is no other Python")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(other)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert f"source {sys.prefix}/bin/activate" in failure_of(check_python, project)


def test_versions_that_differ_from_the_pins_are_a_warning(project: Path):
    shutil.copy(ROOT / "requirements.txt", project)
    pins = (project / "requirements.txt").read_text().splitlines()
    (project / "requirements.txt").write_text("\n".join([*pins, "numpy==1.0"]))
    status, text = summary_of(check_packages, project)
    assert status == WARN
    assert "not 1.0" in text
    assert "pip install --requirement requirements.txt" in text


def test_missing_packages_are_named(project: Path, tmp_path: Path):
    """Without torch, and without those that this project's own modules take first of all."""
    site = tmp_path / "site"
    site.mkdir()
    missing = ("torch", "pydantic", "rich", "ruamel.yaml", "pandas")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        name = path.name.partition("-")[0].replace("_", ".")
        if name not in missing and name != "ruamel":
            (site / path.name).symlink_to(path)
    # Without -S Python would look into the environment's own folder.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "multi_abnormality", "doctor"],
        cwd=project, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{site}"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    for name in missing:
        assert f"{name} is missing" in done.stdout
    assert "→ pip install 'multi-abnormality[train,backup]'" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Training would fail here.")


def test_a_drive_client_of_another_version_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Some combinations of its packages install, but cannot start."""

    def other(name: str) -> str:
        return "1.20.0" if name == "pydrive2" else version(name)

    monkeypatch.setattr("multi_abnormality.tools.doctor.check_packages._version", other)
    (line,) = run_one(check_packages, tmp_path)
    assert (line.status, line.help) == (FAIL, "pip install 'multi-abnormality[train,backup]'")
    assert line.text == "pydrive2 1.20.0 does not satisfy ==1.21.3"


def test_on_a_terminal_lines_have_colours_and_fit():
    program = (
        "from multi_abnormality.tools.doctor.context import CheckResult\n"
        "from multi_abnormality.tools.doctor.doctor import print_result\n"
        "command = 'a command that is not broken ' * 4\n"
        "print_result(CheckResult('FAIL', 'many words ' * 20, command, 'disk'))"
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


def test_a_running_training_is_reported(project: Path):
    lock = project / ".dvc/tmp/train.lock"
    program = (
        "import sys, pathlib; from multi_abnormality.runtime.run_lock import training_lock\n"
        "with training_lock(pathlib.Path(sys.argv[1])): print('holds', flush=True), input()"
    )
    command = [sys.executable, "-c", program, str(lock)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "holds\n"
        parts = results(project)
        holder.stdin.write("\n")
        holder.stdin.close()
    assert parts["training"][0] == FAIL
    assert f"process {holder.pid} is training" in parts["training"][1]
    assert "not checked" in parts["DVC remote"][1]
    assert run_one(check_no_other_training, project) == []


def test_the_checkpoint_that_training_resumes_from(project: Path, small_set, small_params):
    shutil.copytree(small_set.root, project / "processed")
    checkpoints = project / "checkpoints"
    places = RunPaths(
        checkpoints,
        project / "logs",
        project / "history.csv",
        CheckpointArchive(project / "archive", project),
    )

    def set_params(**changes: object) -> None:
        content = small_params.model_dump(mode="json")
        content["train"] |= changes
        (project / "params.yaml").write_text(yaml.safe_dump(content))

    set_params()
    assert "none: training starts at epoch 0" in summary_of(check_checkpoint, project)[1]
    train.run(small_params, small_set.root, places, project / "train.json")
    assert "belongs to a finished run" in summary_of(check_checkpoint, project)[1]
    set_params(learning_rate=0.5)
    before = sorted(path.name for path in checkpoints.iterdir())
    status, text = summary_of(check_checkpoint, project)
    assert status == WARN
    assert "training starts at epoch 0" in text
    assert "train.learning_rate: 0.001, now 0.5" in text
    assert "git checkout" not in text
    assert sorted(path.name for path in checkpoints.iterdir()) == before
    set_params()
    (checkpoints / "last.ckpt").write_bytes((checkpoints / "last.ckpt").read_bytes()[:1000])
    status, text = summary_of(check_checkpoint, project)
    assert status == WARN
    assert "last.ckpt: was cut short or altered" in text
    assert "checkpoints/best.ckpt" in text


@pytest.fixture(scope="module")
def trained(small_set: ProcessedDataset, small_params: Params, tmp_path_factory) -> Path:
    """The checkpoints of a finished training of two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    settings = small_params.train.model_copy(update={"epochs": 2})
    params = small_params.model_copy(update={"train": settings})
    train.run(params, small_set.root, places_in(folder), folder / "train.json")
    return folder / "checkpoints"


def places_in(folder: Path) -> RunPaths:
    archive = CheckpointArchive(folder / ".dvc/tmp/trainings", folder / ".dvc/cache/files/md5")
    return RunPaths(folder / "checkpoints", folder / "logs", folder / "history.csv", archive)


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
    "must, and another": {"train.resume": "required", "train.learning_rate": 0.5},
    "newer": {},
}


@pytest.mark.parametrize("state", STATES)
def test_the_doctor_fails_where_training_does(
    state: str, project: Path, small_set: ProcessedDataset, small_params: Params, trained: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    shutil.rmtree(project / "data")
    (project / "processed").symlink_to(small_set.root)
    shutil.copytree(trained, project / "checkpoints")
    if state == "newer":
        last = project / "checkpoints/last.ckpt"
        content = load_checkpoint(last)
        monkeypatch.setattr(checkpoint_io, "FORMAT", checkpoint_io.FORMAT + 1)
        save_checkpoint(content, last)
        monkeypatch.undo()
    content = small_params.model_dump(mode="json")
    content["train"]["epochs"] = 2
    for key, value in STATES[state].items():
        section, name = key.split(".")
        content[section][name] = value
    (project / "params.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(project)
    checks = (check_params, check_data, check_split, check_checkpoint, check_model)
    context = DoctorContext(Path())
    lines = [line for check in checks for line in run_check("part", check, context)]
    found = [line.text for line in lines if line.status == FAIL]
    try:
        train.run(load_params(), Path("processed"), places_in(Path()), project / "train.json")
        raised = []
    except InputError as error:
        raised = [str(error)]
    assert found == raised
    assert (state in ("as it was trained", "never", "fewer epochs")) == (found == [])
    if state in ("never", "fewer epochs"):
        assert any("training starts at epoch 0" in line.text for line in lines)


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
    "one class to validate on": ({}, {"train.val_fraction": 0.01}, False),
    "more devices than volumes": ({}, {"train.val_fraction": 0.2, "machine.devices": 4},
                                  False),
    "a scan without labels": ({"unlabelled": 1}, {}, False),
    "labels without a scan": ({"missing": 1}, {}, False),
    "few scans, on purpose": ({"train": 14}, {"train.debug": "fast_dev_run"}, True),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_the_doctor_predicts_from_the_tables_what_the_stages_do(
    kind: str, project: Path, small_params: Params, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    """Its exit code and reason, before the first scan is read; no patient has the last finding."""
    counts, changes, succeeds = TABLES[kind]
    shutil.rmtree(project / "data")
    scans = CtRateFolder(project / "data")
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
    (project / "params.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(project)
    checks = (check_params, check_device, check_data, check_split, check_checkpoint, check_model)
    context = DoctorContext(Path())
    results = [result for check in checks for result in run_check("part", check, context)]
    fails = any(result.status == FAIL for result in results)
    printed = " ".join(" ".join(result.text for result in results).split())
    assert not (project / "processed").exists()

    params, out = load_params(), Path("processed")
    place = find_rank(params.machine, torch.device("cpu"), params.train.batch_size)
    try:
        preprocess.run(params, Path("data"), out, project / "preprocess.json")
        with caplog.at_level(logging.WARNING, logger="multi_abnormality"):
            train.run(
                params,
                out,
                places_in(Path()),
                project / "train.json",
                ranks=place,
            )
        failure = ""
    except InputError as error:
        failure = " ".join(str(error).split())
    assert (not fails, failure == "") == (succeeds, succeeds), printed
    assert failure in printed
    if failure:
        return
    rare = [line for line in caplog.messages if repr(FINDINGS[-1]) in line]
    assert len(rare) == (0 if "train.debug" in changes else 2)
    assert [line for line in rare if line not in printed] == []
    few = re.search(r"the best epoch will be chosen on \d+ validation patients?: few", printed)
    assert (few is None) == ("train.debug" in changes)


def test_volumes_of_deleted_scans_are_not_replaced(project: Path):
    """Other preprocess parameters, and only placeholders of the scans: preprocess refuses."""
    scans = CtRateFolder(project / "data")
    shutil.rmtree(scans.root)
    for name in ("train_1_a_1", "train_2_a_1", "valid_1_a_1"):
        path = scans.add(name, FINDINGS[int(name[6]) :: 2], seed=1)
        write_placeholder(Placeholder("0" * 64, 1, name), placeholder_path(path))
        path.unlink()
    scans.write_tables()
    (project / "processed").mkdir()
    (project / "processed/recipe.json").write_text("{}")
    assert "volumes were deleted after they were processed" in failures(project)["split"]


def test_a_debug_run_is_reported_once(project: Path):
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["train"]["debug"] = "fast_dev_run"
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    (checkpoint,) = run_one(check_checkpoint, project)
    assert (checkpoint.status, checkpoint.text) == (OK, "none: training starts at epoch 0")
    _, warning = run_one(check_model, project)
    assert "its scores mean nothing" in warning.text


def test_weights_that_must_be_downloaded_are_a_warning(project: Path, monkeypatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["model"]["pretrained"] = True
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    passed, warning = run_one(check_model, project)
    assert (passed.status, warning.status) == (OK, WARN)
    assert "training downloads them from huggingface.co/timm/test_efficientnet" in warning.text


def test_a_missing_dvc_yaml_is_a_failure(project: Path):
    (project / "dvc.yaml").unlink()
    assert "dvc.yaml" in failure_of(check_stages, project)


def test_warnings_are_captured():
    with captured_warnings() as warnings:
        log.warning("%s is left out", "a scan")
    assert warnings == ["a scan is left out"]
