"""A Git and DVC project whose stages take no time: scans by chance, models as good as asked for."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from test_pipeline import run

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
      - metrics/predictions.json
      - metrics/evaluate.json:
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

from multi_abnormality.evaluation.predictions import write_predictions
from multi_abnormality.evaluation.scores import official_scores
from multi_abnormality.files import write_json
from multi_abnormality.findings import FINDINGS

params = yaml.safe_load(Path("params.yaml").read_text())


def processed(scans, first, seed, files):
    """Two scans a patient, and of every third scan a second reconstruction."""
    labels = (np.random.default_rng(seed).random((200, len(FINDINGS))) < 0.4).astype(int)
    rows = []
    for scan in range(first, first + scans):
        patient, letter = f"valid_{(scan + 1) // 2}", "ab"[(scan + 1) % 2]
        for number in range(1, 3 if scan % 3 == 0 else 2):
            scan_id = f"{patient}_{letter}"
            known = [f"{scan_id}_{number}", "valid", patient, scan_id, f"{files}-{scan}"]
            rows.append([*known, *labels[scan]])
    columns = ["name", "split", "patient_id", "scan_id", "source_sha256"]
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
    write_predictions(folder / "predictions.json", labels.index, probabilities, FINDINGS)
    write_json(official_scores(truth, probabilities, FINDINGS), folder / "evaluate.json")


if sys.argv[1] == "processed":
    processed(**params["data"])
else:
    metrics(**params["model"])
'''


class Project:
    """A project in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *command: str, ok: bool = True) -> str:
        return run(self.folder, *command, ok=ok)

    def change(self, old: str, new: str) -> None:
        path = self.folder / "params.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def commit(self, message: str) -> None:
        self("git", "add", "--all")
        self("git", "commit", "--quiet", "--message", message)

    def compare(self, *arguments: str, ok: bool = True) -> str:
        command = ("python", "-m", "multi_abnormality.compare", "--resamples", "200")
        return self(*command, *arguments, ok=ok)


def make_project(folder: Path) -> Project:
    """Its first commit, tagged `empty`, has no scores; main and the tag `first` have."""
    folder.mkdir(parents=True)
    for name, text in (("dvc.yaml", STAGES), ("params.yaml", PARAMS), ("make.py", MAKE)):
        (folder / name).write_text(text)
    project = Project(folder)
    project("git", "init", "--quiet", "--initial-branch", "main")
    project("git", "config", "user.name", "A User")
    project("git", "config", "user.email", "user@example.org")
    project("dvc", "init", "--quiet")
    project("dvc", "config", "core.analytics", "false")
    project.commit("Stages")
    project("git", "tag", "empty")
    project("dvc", "repro")
    project.commit("First run")
    project("git", "tag", "first")
    return project
