"""docs/how-to/ensembles.md, typed: recipe, queue, fusion, prediction; then DVC on another machine.

Random weights, a toy backbone, one epoch and small volumes: the scores mean nothing.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from documents import commands
from test_guides import ENSEMBLES, Shell
from test_pipeline import run, shrink

COMMAND = ("python", "-m", "multi_abnormality", "ensemble")
SMALL = {
    "preprocess.spacing=[1.5,1.6,1.6]": "preprocess.spacing=[40.0,12.0,12.0]",
    "preprocess.shape=[224,224,224]": "preprocess.shape=[7,30,30]",
}


def make_small(path: Path) -> None:
    """Keep the recipe's settings, with a network of random weights that trains in seconds."""
    shrink(path)
    params = yaml.safe_load(path.read_text())
    params["model"] |= {"pretrained": False, "finetune": "full", "encoder_chunk_size": None}
    params["train"] |= {"epochs": 1, "schedule_epochs": 1, "warmup_epochs": 0.5}
    params["train"] |= {"val_fraction": 0.45, "augmentation": "none", "accumulate_grad_batches": 1}
    params["export"]["formats"] = ["onnx"]
    path.write_text(yaml.safe_dump(params, sort_keys=False))


@pytest.mark.slow
def test_the_guide_and_another_machine(new_project: Path, tmp_path: Path):
    project = shutil.copytree(new_project, tmp_path / "project", symlinks=True)
    shell = Shell(project)
    typed = [command.text for command in commands(ENSEMBLES)]
    recipe, commit, *queue, fuse, keep, predict = typed
    assert "preprocess.shape" in shell(recipe)
    make_small(project / "params.yaml")
    shell(f"git add recipes && {commit}")
    for text in queue:
        for large, small in SMALL.items():
            text = text.replace(large, small)
        shell(text)
    shell.wait_for_queue()
    assert "Failed" not in run(project, "dvc", "queue", "status")
    printed = shell(fuse)
    assert "B is winner" in printed
    assert "macro AUROC" in printed
    shell(keep)
    assert run(project, "git", "status", "--porcelain") == ""
    assert "up to date" in run(project, "dvc", "status", "ensembles/winner/dvc.yaml")
    assert "winner/scores.json" in run(project, "dvc", "metrics", "show")
    scan = project / "data/dataset/valid_fixed/valid_1/valid_1_a/valid_1_a_1.nii.gz"
    found = shell(predict.replace("SCAN.nii.gz", str(scan)) + " --json")
    values = json.loads(found[found.index("{\n") : found.rindex("}") + 1])["predictions"][0]
    stored = json.loads((project / "ensembles/winner/predictions.json").read_text())
    by_name = {row["input_image_name"]: row for row in stored["predictions"]}
    expected = by_name[values["input_image_name"]]["probabilities"]
    assert values["probabilities"] == pytest.approx(expected, abs=1e-3)

    for names, message in (
        (("thick", "nowhere"), "nowhere: unknown branch, tag, commit or experiment"),
        (("thick", "thick"), r"are the same revision; name each member once"),
        (("thick", "workspace"), "workspace: members are commits"),
        (("thick",), "at least two"),
        (("thick", "main"), r"main .*: has no scores"),
    ):
        assert re.search(message, run(project, *COMMAND, *names, "--name", "other", ok=False))
    assert not (project / "ensembles/other").exists()
    names = ("thick", "thin", "--name", "winner")
    assert "ensembles/winner exists" in run(project, *COMMAND, *names, ok=False)

    run(project, "dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    run(project, "git", "commit", "--quiet", "--all", "--message", "A remote")
    run(project, "dvc", "push", "ensembles/winner/dvc.yaml")
    run(tmp_path, "git", "clone", "--quiet", str(project), "elsewhere")
    elsewhere = tmp_path / "elsewhere"
    run(elsewhere, "dvc", "pull", "ensembles/winner/dvc.yaml")
    files = sorted(path for path in (project / "ensembles").rglob("*") if path.is_file())
    for path in files:
        copied = elsewhere / path.relative_to(project)
        assert copied.read_bytes() == path.read_bytes(), path
    before = {path: path.read_bytes() for path in files}
    output = run(project, "dvc", "repro", "--force", "--single-item", "ensembles/winner/dvc.yaml")
    assert "Running stage" in output
    assert {path: path.read_bytes() for path in files} == before
