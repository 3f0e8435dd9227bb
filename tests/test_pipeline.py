"""The pipeline as a user runs it: real `dvc` in a clone of its own."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from multi_abnormality.runtime.checkpoint_io import load_checkpoint
from program_server import run_python

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
DROPPED = "checkpoints.*|metrics/.*json$|metrics/history.csv"  # files, beside the scores
OUTPUTS = ("checkpoints", "model_weights", "metrics")


def run(folder: Path, *command: str, ok: bool = True) -> str:
    """Run a command of the virtual environment; its output."""
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100"}
    if command[:2] == ("python", "-m"):
        code, output = run_python(folder, environment, *command[2:])
    elif command[0] == "dvc":
        code, output = run_python(folder, environment, *command)
    else:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        code, output = done.returncode, done.stdout + done.stderr
    assert (code == 0) == ok, output
    return output


def shrink(path: Path) -> None:
    """Parameters of a model that trains in seconds."""
    params = yaml.safe_load(path.read_text())
    params["preprocess"] |= {"shape": [8, 32, 32], "spacing": [36.0, 11.0, 11.0]}
    params["model"] |= {"backbone": "test_efficientnet"}
    params["train"] |= {"epochs": 2, "schedule_epochs": 2, "batch_size": 4, "slices_per_volume": 4}
    params["train"] |= {"val_fraction": 0.3, "learning_rate": 0.002, "ema_decay": 0.5}
    params["evaluate"] |= {"n_bootstrap": 50}
    params["machine"] |= {"accelerator": "cpu", "workers": 1}
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def make_project(folder: Path, patients: int = 36) -> Path:
    """A Git and DVC repository with this project's pipeline and a small sample."""
    folder.mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    shrink(folder / "params.yaml")
    # The stages' deps; the code that runs is the installed one.
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copytree(
        ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    run(folder, "git", "init", "--quiet", "--initial-branch", "main")
    run(folder, "git", "config", "user.name", "A User")
    run(folder, "git", "config", "user.email", "user@example.org")
    run(folder, "dvc", "init", "--quiet")
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots", dirs_exist_ok=True)
    run(folder, "dvc", "config", "core.analytics", "false")
    sample = ("--patients", str(patients), "--size", "64")
    run(folder, "python", "-m", "multi_abnormality", "sample", *sample)
    run(folder, "dvc", "add", "--quiet", "data")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "A project")
    return folder


def run_first(folder: Path) -> None:
    """All stages, and a commit of their results."""
    run(folder, "dvc", "repro")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "First run")


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for output in OUTPUTS
        for path in sorted((folder / output).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which `dvc repro` has run once."""
    folder = make_project(tmp_path_factory.mktemp("a user's") / "Projekt mit Größe")
    run_first(folder)
    return folder


@pytest.fixture
def restored(project: Path) -> Iterator[None]:
    yield
    run(project, "git", "checkout", "--quiet", "--", ".")
    run(project, "dvc", "checkout", "--quiet", "--force")


@pytest.mark.slow
def test_a_second_repro_does_nothing(project: Path):
    output = run(project, "dvc", "repro")
    assert output.count("didn't change, skipping") == 5
    assert "Running stage" not in output
    assert run(project, "dvc", "status").strip() == "Data and pipelines are up to date."
    assert run(project, "git", "status", "--porcelain") == ""


@pytest.mark.slow
def test_scores_are_those_of_the_predictions(project: Path):
    scores = json.loads((project / "metrics/scores.json").read_text())
    assert list(scores) == ["auroc", "auroc_low", "ap", "f1", "acc", "crg"]
    evaluation = json.loads((project / "metrics/evaluate.json").read_text())
    assert evaluation["classification"]["macro"]["auroc"] == scores["auroc"]
    predictions = json.loads((project / "metrics/predictions.json").read_text())["predictions"]
    assert len(predictions) == evaluation["counts"]["scans"]
    assert json.loads((project / "metrics/export.json").read_text())["volumes_compared"] > 1


@pytest.mark.slow
def test_predict_agrees_with_the_stored_predictions(project: Path):
    """From the scan file by ONNX as from the processed set by PyTorch."""
    predictions = json.loads((project / "metrics/predictions.json").read_text())["predictions"]
    scans = {path.name.removesuffix(".nii.gz"): path for path in project.rglob("valid_*.nii.gz")}
    alone = [  # scans of one reconstruction: the others' logits are means
        entry for entry in predictions if entry["input_image_name"][:-1] + "2" not in scans
    ][:3]
    paths = [str(scans[entry["input_image_name"]]) for entry in alone]
    printed = run(project, "python", "-m", "multi_abnormality", "predict", "--json", *paths)
    found = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])["predictions"]
    for new, stored in zip(found, alone, strict=True):
        assert new["input_image_name"] == stored["input_image_name"]
        assert new["probabilities"] == pytest.approx(stored["probabilities"], abs=1e-4)


@pytest.mark.slow
def test_same_bytes_from_scratch_in_another_folder(project: Path, tmp_path: Path):
    other = make_project(tmp_path / "elsewhere")
    run(other, "dvc", "repro")
    assert hashes(other) == hashes(project)
    for name in ("checkpoints", "logs"):
        shutil.rmtree(other / name)
    run(other, "dvc", "repro", "--force")
    assert hashes(other) == hashes(project)


@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.usefixtures("restored")
def test_an_experiment_is_listed_beside_the_first_run(project: Path):
    run(project, "dvc", "exp", "run", "--name", "faster", "-S", "train.learning_rate=4e-3")
    _, main = json.loads(run(project, "dvc", "exp", "show", "--json"))
    (faster,) = [experiment["revs"][0] for experiment in main["experiments"]]
    rates, scores = [], []
    for data in (main["data"], faster["data"]):
        rates.append(data["params"]["params.yaml"]["data"]["train"]["learning_rate"])
        scores.append(data["metrics"]["metrics/scores.json"]["data"])
    assert rates == [0.002, 0.004]
    assert len(scores[0]) == len(scores[1]) == 6
    assert scores[0] != scores[1]
    shown = run(project, "dvc", "exp", "show", "--only-changed", "--drop", DROPPED)
    assert "faster" in shown
    assert max(map(len, shown.splitlines())) <= 100
    compared = run(project, "python", "-m", "multi_abnormality", "compare", "main", "faster")
    assert f"{scores[0]['auroc']:.3f}  {scores[1]['auroc']:.3f}" in compared
    plots = run(project, "dvc", "plots", "diff", "main", "faster", "--json")
    for (plot,) in json.loads(plots[plots.index("{") : plots.rindex("}") + 1])["data"].values():
        assert plot["revisions"] == ["main", "faster"]


@pytest.mark.slow
@pytest.mark.usefixtures("restored")
def test_evaluate_parameters_never_retrain(project: Path):
    output = run(project, "dvc", "repro", "--dry")
    assert "Running stage" not in output
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["evaluate"]["n_bootstrap"] = 60
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    output = run(project, "dvc", "repro", "--dry")
    assert "Running stage 'evaluate'" in output
    assert "Stage 'train' didn't change" in output


@pytest.mark.slow
@pytest.mark.usefixtures("restored")
def test_the_report_compares_with_a_baseline_without_training(project: Path):
    commit = run(project, "git", "rev-parse", "--short", "HEAD").strip()
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["evaluate"] |= {"baseline": commit, "threshold_metric": "youden"}
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    output = run(project, "dvc", "repro", "evaluate")
    assert "Stage 'train' didn't change, skipping" in output
    compared = json.loads((project / "metrics/evaluate.json").read_text())["comparison"]
    assert compared["parameters"] == {"evaluate.threshold_metric": {"a": "crg", "b": "youden"}}
    assert f"<h2>Compared with {commit}</h2>" in (project / "metrics/report.html").read_text()


EDITS = {  # a text to replace, and another of the same meaning for the result
    "runtime/training_loop.py": ("FLUSH_EVERY_N_STEPS = 50", "FLUSH_EVERY_N_STEPS = 40"),
    "runtime/checkpoint_saver.py": ("class BackupHook:", "UNUSED = 1\n\n\nclass BackupHook:"),
    "backup/backup_manager.py": ("STALL_TIMEOUT = 300.0", "STALL_TIMEOUT = 200.0"),
    "evaluation/calibration.py": ('"""', '"""Reworded. '),
    "training/training_step.py": ("the loss is {values", "a loss is {values"),
    "training/losses.py": ('"""', '"""Reworded. '),
    "models/classifier.py": ("import torch\n", "import torch  # a comment\n"),
}


@pytest.mark.slow
@pytest.mark.usefixtures("restored")
def test_edits_without_influence_on_the_result_train_not_a_step(
    project: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", str(project / "src"))  # or the installed code would run
    before = hashes(project)
    for name, (old, new) in EDITS.items():
        file = project / "src/multi_abnormality" / name
        text = file.read_text()
        file.write_text(text.replace(old, new, 1) + "\n# A comment at the end.\n")
    output = run(project, "dvc", "repro")
    assert "Running stage 'train'" in output
    assert "checkpoints/last.ckpt is of a finished training; nothing to do" in output
    after = hashes(project)
    # The stored inference names the code that computed it.
    assert (
        after | {"metrics/inference.safetensors": before["metrics/inference.safetensors"]} == before
    )


def add_remote(folder: Path, remote: Path) -> None:
    """By its relative path: DVC cannot write one with letters beyond ASCII into its config."""
    place = os.path.relpath(remote, folder)
    run(folder, "dvc", "remote", "add", "--default", "--local", "backup", place)


@pytest.mark.slow
def test_push_and_pull_bring_everything_back(project: Path, tmp_path: Path):
    pushed = tmp_path / "project"
    shutil.copytree(project, pushed, symlinks=True)
    add_remote(pushed, tmp_path / "remote")
    run(pushed, "dvc", "push")
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(pushed), str(clone))
    add_remote(clone, tmp_path / "remote")
    run(clone, "dvc", "pull")
    assert hashes(clone) == hashes(project)
    output = run(clone, "dvc", "repro")
    assert "Running stage" not in output
    assert run(clone, "git", "status", "--porcelain") == ""


def kill_in_training(folder: Path, *command: str, by: int = signal.SIGKILL) -> None:
    """Send a signal to a command and its child processes, once training has saved twice."""
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (folder / "checkpoints/previous.ckpt").exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.killpg(process.pid, by)
    process.wait()


@pytest.fixture
def longer(project: Path, tmp_path: Path):
    """Makes copies of the project whose training is long enough to be killed."""

    def make(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(project, folder, symlinks=True)
        params = yaml.safe_load((folder / "params.yaml").read_text())
        params["train"] |= {"epochs": 30, "early_stopping_patience": 30, "learning_rate": 0.003}
        params["train"] |= {"save_every_n_minutes": 1e-9}
        (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        return folder

    return make


@pytest.mark.slow
@pytest.mark.drill
def test_after_a_kill_training_resumes_to_the_same_bytes(longer):
    whole, killed = longer("whole"), longer("killed")
    run(whole, "dvc", "repro")
    kill_in_training(killed, "dvc", "repro")
    assert not load_checkpoint(killed / "checkpoints/last.ckpt")["complete"]
    output = run(killed, "dvc", "repro")
    assert "resuming from checkpoints/" in output
    assert hashes(killed) == hashes(whole)


@pytest.mark.slow
@pytest.mark.drill
def test_a_killed_experiment_resumes_and_is_one_row(longer):
    whole, killed = longer("whole"), longer("killed")
    command = ("dvc", "exp", "run", "--name", "longer", "-S", "train.weight_decay=0.1")
    run(whole, *command)
    kill_in_training(killed, *command)
    assert "resuming from checkpoints/" in run(killed, *command)
    assert hashes(killed) == hashes(whole)
    (row,), (wanted,) = (experiments(folder, "longer") for folder in (killed, whole))
    scores = "metrics/scores.json"
    assert row["data"]["metrics"][scores] == wanted["data"]["metrics"][scores]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("by", "documented"),
    [
        (signal.SIGINT, "git restore . && dvc checkout --force"),
        (signal.SIGKILL, "git switch --force main && dvc checkout --force"),
    ],
)
def test_a_stopped_experiment_is_undone_as_documented(
    by: int, documented: str, project: Path, tmp_path: Path
):
    assert f"$ {documented}\n" in (ROOT / "docs/how-to/experiments.md").read_text()
    folder = tmp_path / "project"
    shutil.copytree(project, folder, symlinks=True)
    before = hashes(folder)
    settings = ("epochs=30", "learning_rate=0.003", "save_every_n_minutes=1e-9")
    overrides = [part for each in settings for part in ("-S", f"train.{each}")]
    kill_in_training(folder, "dvc", "exp", "run", *overrides, by=by)
    run(folder, "bash", "-c", documented)
    assert hashes(folder) == before
    assert run(folder, "git", "status", "--porcelain", "--branch").strip() == "## main"
    assert "Data and pipelines are up to date." in run(folder, "dvc", "status")
    assert list(folder.glob(".dvc/tmp/trainings/*/last.ckpt")) != []


def experiments(folder: Path, name: str) -> list[dict]:
    """Rows of `dvc exp show` with that name."""
    _, main = json.loads(run(folder, "dvc", "exp", "show", "--json"))
    rows = [experiment["revs"][0] for experiment in main["experiments"]]
    return [row for row in rows if row["name"] == name]


@pytest.mark.slow
@pytest.mark.drill
def test_a_queued_experiment_trains_in_a_folder_of_its_own(longer):
    folder = longer("project")
    before = hashes(folder)
    params = run(folder, "dvc", "params", "diff")
    run(folder, "dvc", "exp", "run", "--queue", "--name", "queued", "-S", "train.weight_decay=0.1")
    run(folder, "dvc", "exp", "run", "--run-all")
    assert hashes(folder) == before
    assert run(folder, "dvc", "params", "diff") == params
    (row,) = experiments(folder, "queued")
    assert len(row["data"]["metrics"]["metrics/scores.json"]["data"]) == 6
