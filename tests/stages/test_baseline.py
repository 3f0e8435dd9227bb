"""The report's comparison with an earlier commit, `evaluate.baseline`, in a real repository."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.config.schema import Params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.models.encoder import SliceEncoder
from multi_abnormality.runtime.checkpoint_io import load_checkpoint, save_checkpoint
from multi_abnormality.stages import evaluate
from multi_abnormality.utils.errors import InputError
from test_pipeline import run

TRACKED = {
    "preprocess": ("preprocess",),
    "train": ("seed", "model", "train"),
    "evaluate": ("seed", "evaluate"),
}


@dataclass
class Project:
    """A repository whose first commit, `baseline`, holds another run than the work tree."""

    root: Path
    params: Params
    trained: Path
    baseline: str

    def evaluate(self, baseline: str, metrics: Path | None = None) -> str:
        """Evaluate the trained run, and return its report."""
        settings = self.params.evaluate.model_copy(update={"baseline": baseline})
        params = self.params.model_copy(update={"evaluate": settings})
        metrics = metrics or self.root / "metrics"
        checkpoints = self.trained / "checkpoints"
        evaluate.run(params, checkpoints, self.root / "processed", metrics, self.root)
        return (metrics / "report.html").read_text()

    def commit(self) -> str:
        run(self.root, "git", "add", "--all", "--force")
        run(self.root, "git", "commit", "--quiet", "--message", "A run")
        return run(self.root, "git", "rev-parse", "HEAD").strip()


def write_lock(root: Path, params: Params, **changes: object) -> None:
    """Write params.yaml, and a dvc.lock by which the stages were run with these parameters."""
    content = params.model_dump(mode="json")
    content["train"] |= changes
    (root / "params.yaml").write_text(yaml.safe_dump(content))
    stages = {
        stage: {"cmd": stage, "params": {"params.yaml": {name: content[name] for name in names}}}
        for stage, names in TRACKED.items()
    }
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


@pytest.fixture(scope="module")
def original(
    tmp_path_factory: pytest.TempPathFactory,
    trained: Path,
    small_params: Params,
    small_set: ProcessedDataset,
) -> Project:
    """The earlier run has another learning rate, and weights to which noise was added."""
    root = tmp_path_factory.mktemp("a user's") / "Projekt mit Größe"
    shutil.copytree(small_set.root, root / "processed")
    shutil.copytree(trained / "metrics", root / "metrics")
    write_lock(root, small_params, learning_rate=0.5)
    run(root, "git", "init", "--quiet")
    run(root, "git", "config", "user.name", "A User")
    run(root, "git", "config", "user.email", "user@example.org")
    run(root, "dvc", "init", "--quiet")
    checkpoint = load_checkpoint(trained / "checkpoints/best.ckpt")
    generator = torch.Generator().manual_seed(0)
    for value in checkpoint["state_dict"].values():
        if value.is_floating_point() and value.ndim:
            value += 0.5 * value.std(correction=0) * torch.randn(value.shape, generator=generator)
    save_checkpoint(checkpoint, root / "other/best.ckpt")
    evaluate.run(small_params, root / "other", root / "processed", root / "metrics")
    project = Project(root, small_params, trained, "")
    project.baseline = project.commit()
    write_lock(root, small_params)
    return project


@pytest.fixture
def project(original: Project, tmp_path: Path) -> Project:
    """A copy to change."""
    root = shutil.copytree(original.root, tmp_path / "copy", symlinks=True)
    return Project(root, original.params, original.trained, original.baseline)


def test_the_report_has_the_tests_that_compare_computes(original: Project, tmp_path: Path):
    metrics = shutil.copytree(original.trained / "metrics", tmp_path / "metrics")
    report = original.evaluate(original.baseline[:7], metrics)
    scores = json.loads((metrics / "evaluate.json").read_text())
    compared = scores.pop("comparison")
    assert scores == json.loads((original.trained / "metrics/evaluate.json").read_text())
    earlier = json.loads((original.root / "metrics/evaluate.json").read_text())
    macro = compared["macro"]
    for measure, value in scores["classification"]["macro"].items():
        assert macro[measure]["a"] == earlier["classification"]["macro"][measure]
        assert macro[measure]["b"] == value
    assert macro["auroc"]["difference"] != 0
    assert set(compared["per_pathology"]) == set(FINDINGS)
    assert compared["counts"]["scans"] == scores["counts"]["scans"]
    assert compared["parameters"] == {"train.learning_rate": {"a": 0.5, "b": 1e-3}}
    name = original.baseline[:7]
    assert f'<a href="#comparison">Comparison with {name}</a>' in report
    summary = report.split('id="summary"')[1].split("</section>")[0]
    a, b = (f"{macro['auroc'][key]:.3f}" for key in "ab")
    assert f"Macro AUROC {b} instead of {a}" in summary
    section = report.split('id="comparison"')[1].split("</section>")[0]
    assert section.count("<tr") == 1 + 1 + len(FINDINGS)
    assert f"<dd>0.001 <small>{name}: 0.5</small></dd>" in section
    assert "evaluate.baseline" not in section
    assert "evaluate.baseline" not in report.split('id="intended-use"')[1]


def test_equal_baselines_give_equal_bytes(original: Project, tmp_path: Path):
    """However many of the hash's digits are given, and whatever was committed since."""
    reports, scores = [], []
    for number, digits in enumerate((7, 40)):
        metrics = shutil.copytree(original.trained / "metrics", tmp_path / str(number))
        reports.append(original.evaluate(original.baseline[:digits], metrics))
        scores.append((metrics / "evaluate.json").read_bytes())
        run(original.root, "git", "commit", "--quiet", "--allow-empty", "--message", "Another")
    assert reports[0] == reports[1]
    assert scores[0] == scores[1]


def test_a_run_that_predicts_the_same_is_described(project: Project):
    shutil.copytree(project.trained / "metrics", project.root / "metrics", dirs_exist_ok=True)
    report = project.evaluate(project.commit())
    assert "it predicts the same, to the last bit." in report
    section = report.split('id="comparison"')[1].split("</section>")[0]
    assert "None of seed, preprocess, model, train and evaluate." in section


def refusal(project: Project, monkeypatch: pytest.MonkeyPatch, baseline: str) -> str:
    """The error about a baseline, which comes before the classifier runs."""

    def refuse(*_: object) -> None:
        raise AssertionError("the classifier ran")

    monkeypatch.setattr(VolumeClassifier, "forward", refuse)
    monkeypatch.setattr(SliceEncoder, "forward", refuse)
    (project.root / "metrics/inference.safetensors").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"^evaluate\.baseline: .* Or set it to null") as caught:
        project.evaluate(baseline)
    return str(caught.value)


def rewrite_tables(project: Project, change) -> None:
    """Change the tables of the processed set, by volume name, in the baseline alone."""
    for table in ("manifest.csv", "labels.csv"):
        path = project.root / "processed" / table
        change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


def test_a_commit_that_is_unknown_or_has_no_run_is_refused(project: Project, monkeypatch):
    for name in ("0123456", "0123456" * 5 + "abcde"):
        fault = refusal(project, monkeypatch, name)
        assert re.search(rf"{name}: unknown branch, tag, commit or experiment .*`git fetch`", fault)
    run(project.root, "git", "branch", "abcdef1")
    fault = refusal(project, monkeypatch, "abcdef1")
    assert "abcdef1: is also the name of a branch, tag or experiment" in fault
    write_lock(project.root, project.params)
    params = project.root / "params.yaml"
    params.write_text(params.read_text().replace("batch_size: 4", "batch_size: 5"))
    assert "its parameters were not run" in refusal(project, monkeypatch, project.commit())
    (project.root / "dvc.lock").unlink()
    fault = refusal(project, monkeypatch, project.commit())
    assert "has no scores (dvc.lock is neither in its dvc.lock nor in Git)" in fault


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("valid_", "valid_90", "were scored on different scans: none of the 8 is among the 8"),
        ("Emphysema", "Cyst", "have different findings: only one of them has Cyst, Emphysema"),
    ],
)
def test_a_baseline_of_other_scans_or_findings_is_refused(
    project: Project, monkeypatch, old: str, new: str, fault: str
):
    for file in ("processed/manifest.csv", "processed/labels.csv", "metrics/submission.json"):
        path = project.root / file
        path.write_text(path.read_text().replace(old, new))
    commit = project.commit()
    run(project.root, "git", "checkout", "--quiet", project.baseline, "--", "processed")
    assert fault in refusal(project, monkeypatch, commit)


def test_scans_of_one_run_alone_are_left_out_and_counted(project: Project):
    """The earlier run was scored before valid_1 was added."""
    tables = {table: project.root / "processed" / table for table in ("manifest.csv", "labels.csv")}
    whole = {path: path.read_text() for path in tables.values()}
    for path, text in whole.items():
        path.write_text("".join(row for row in text.splitlines(True) if "valid_1_" not in row))
    metrics = project.root / "metrics"
    (metrics / "inference.safetensors").unlink()
    evaluate.run(project.params, project.root / "other", project.root / "processed", metrics)
    commit = project.commit()
    for path, text in whole.items():
        path.write_text(text)
    report = project.evaluate(commit)
    section = report.split('id="comparison"')[1].split("</section>")[0]
    assert "the 7 scans of 7 patients, scored by both; without the other 1," in section
