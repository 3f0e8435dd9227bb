"""docs/how-to/cross-validation.md, typed with two folds, and the scores of both."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from documents import commands
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from test_guides import CROSS_VALIDATION, Shell
from test_pipeline import run

COMMAND = ("python", "-m", "multi_abnormality", "folds")


@pytest.mark.slow
def test_queued_folds_are_collected(new_project: Path, tmp_path: Path):
    project = shutil.copytree(new_project, tmp_path / "project", symlinks=True)
    params = yaml.safe_load((project / "params.yaml").read_text())
    (block,) = re.findall(r"^```yaml\n(.*?)^```", CROSS_VALIDATION.read_text(), re.M | re.S)
    params["data"] |= yaml.safe_load(block)["data"] | {"folds": 2}
    params["train"]["epochs"] = 1
    params["export"]["formats"] = ["safetensors"]
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    shell = Shell(project)
    *queue, collect = [command.text for command in commands(CROSS_VALIDATION)]
    for text in queue:
        shell(text.replace("0,1,2,3,4", "0,1"))
    shell.wait_for_queue()
    printed = shell(collect)
    scores = json.loads((project / "folds/folds.json").read_text())
    assert [row["fold"] for row in scores["folds"]] == [0, 1]
    first, second = (row["name"] for row in scores["folds"])
    assert f"\n{second}  " in printed
    patients = set(ProcessedDataset(project / "processed").volumes("train")["patient_id"])
    assert scores["counts"]["patients"] == len(patients)
    assert set(pd.read_csv(project / "folds/out_of_fold.csv")["patient_id"]) == patients
    for name in (first, second):
        log = run(project, "dvc", "queue", "logs", name)
        assert "Stage 'preprocess' didn't change, skipping" in log
    assert "missing of the folds 0 to 1: 1" in run(project, *COMMAND, first, ok=False)
    run(project, "git", "commit", "--quiet", "--allow-empty", "--message", "Another commit")
    assert "no experiment of this commit holds out a fold" in run(project, *COMMAND, ok=False)
    assert f"\n{second}  " in run(project, *COMMAND, first, second)
