"""A Git and DVC project with fast stages: random labels, and predictions of configurable quality.

It writes the same result files as the pipeline, and its plots are those of the pipeline.
"""

import shutil
from pathlib import Path

import yaml

from multi_abnormality.tools.compare.compare_run import compare_revisions
from multi_abnormality.tools.compare.paired_tests import ResamplingConfig
from test_pipeline import ROOT, run

STAGES = """\
stages:
  preprocess:
    cmd: python make.py processed
    deps: [make.py]
    params: [data]
    outs: [processed]
  evaluate:
    cmd: python make.py metrics
    deps: [make.py, processed]
    params: [model]
    outs:
      - metrics/submission.json
      - metrics/plots
      - metrics/evaluate.json:
          cache: false
      - metrics/history.csv:
          cache: false
"""
PARAMS = """\
data: {scans: 60, first: 1, seed: 0, files: 0}
model: {noise: 1.5, seed: 0}
"""
MAKE = '''\
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.evaluation.scores import official_scores
from multi_abnormality.evaluation.dvc_plots import write_plots
from multi_abnormality.evaluation.prediction_files import write_submission
from multi_abnormality.utils.atomic_io import write_json

params = yaml.safe_load(Path("params.yaml").read_text())


def processed(scans, first, seed, files):
    """Two scans per patient, and a second reconstruction of every third scan."""
    labels = (np.random.default_rng(seed).random((200, len(FINDINGS))) < 0.4).astype(int)
    rows = []
    for scan in range(first, first + scans):
        patient, letter = f"valid_{(scan + 1) // 2}", "ab"[(scan + 1) % 2]
        for number in range(1, 3 if scan % 3 == 0 else 2):
            known = [f"{patient}_{letter}_{number}", "stored", f"{files}-{scan}", f"{scan}"]
            rows.append([*known, *labels[scan]])
    columns = ["name", "status", "source_sha256", "voxels_sha256"]
    frame = pd.DataFrame(rows, columns=[*columns, *FINDINGS])
    Path("processed").mkdir(exist_ok=True)
    frame[columns].to_csv("processed/manifest.csv", index=False)
    frame[["name", *FINDINGS]].to_csv("processed/labels.csv", index=False)


def metrics(noise, seed):
    labels = pd.read_csv("processed/labels.csv").set_index("name")
    labels = labels[labels.index.str.endswith("_1")]
    truth = labels.to_numpy()
    logits = 2 * truth - 1 + np.random.default_rng(7).normal(size=(400, 18))[: len(truth)]
    logits += noise * np.random.default_rng(seed).normal(size=(400, 18))[: len(truth)]
    probabilities = 1 / (1 + np.exp(-logits))
    folder = Path("metrics")
    write_submission(folder / "submission.json", labels.index, probabilities, FINDINGS)
    write_json(official_scores(truth, probabilities, FINDINGS), folder / "evaluate.json")
    write_plots(folder / "plots", truth, probabilities, FINDINGS)
    epochs = [f"{epoch},{noise},{noise + 1},0.5" for epoch in range(4)]
    lines = ["epoch,train_loss,val_loss,val_auroc", *epochs, ""]
    (folder / "history.csv").write_text("\\n".join(lines))


if sys.argv[1] == "processed":
    processed(**params["data"])
else:
    metrics(**params["model"])
'''


class Project:
    """A project in its own folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *command: str, ok: bool = True) -> str:
        return run(self.folder, *command, ok=ok)

    def run_with(self, section: str, **values: object) -> None:
        """Change parameters, run, and commit."""
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        params[section] |= values
        path.write_text(yaml.safe_dump(params))
        self("dvc", "repro")
        self.commit(f"{section} {values}")

    def commit(self, message: str) -> None:
        self("git", "add", "--all")
        self("git", "commit", "--quiet", "--message", message)

    def compare(self, first: str, second: str) -> dict:
        return compare_revisions(self.folder, (first, second), ResamplingConfig(100, 0.95, 0))


def create(folder: Path) -> Project:
    """Create a project with scores on main, tag `first` and an experiment; tag `empty` has none."""
    folder.mkdir()
    pipeline = (ROOT / "dvc.yaml").read_text()
    stages = STAGES + pipeline[pipeline.index("\nplots:\n") :]
    for name, text in (("dvc.yaml", stages), ("params.yaml", PARAMS), ("make.py", MAKE)):
        (folder / name).write_text(text)
    project = Project(folder)
    project("git", "init", "--quiet", "--initial-branch", "main")
    project("git", "config", "user.name", "A User")
    project("git", "config", "user.email", "user@example.org")
    project("dvc", "init", "--quiet")
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots", dirs_exist_ok=True)
    project("dvc", "config", "core.analytics", "false")
    project.commit("Stages")
    project("git", "tag", "empty")
    project("dvc", "repro")
    project.commit("First run")
    project("git", "tag", "first")
    project("dvc", "exp", "run", "--name", "better", "-S", "model.noise=0.5")
    project("git", "restore", ".")
    project("dvc", "checkout", "--quiet")
    return project
