"""Nothing of a library's warnings that a user can do nothing about, and all of the others."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import timm
import torch

from multi_abnormality.models.backbones import create_backbone
from multi_abnormality.utils.warning_filters import filter_warnings
from train_stage import Project

LINE = re.compile(r"\d\d:\d\d:\d\d \S")  # of this project's own log
KNOWN = "`isinstance(treespec, LeafSpec)` is deprecated, use another call."


def test_a_known_warning_is_silent_where_it_is_known_from_and_nowhere_else():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        filter_warnings()
        for text, module in (
            (KNOWN, "copyreg"),
            (KNOWN, "another.library"),
            ("Something new.", "copyreg"),
        ):
            warnings.warn_explicit(text, FutureWarning, "file.py", 1, module)
    assert [str(warning.message) for warning in shown] == [KNOWN, "Something new."]


def test_the_classifier_of_a_weights_file_causes_no_warning(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    model = timm.create_model("test_efficientnet")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    filter_warnings()
    create_backbone("test_efficientnet", 3, None, tmp_path / "weights.pth", {})
    assert caplog.records == []


def stage(name: str) -> list[str]:
    return [sys.executable, "-m", f"multi_abnormality.stages.{name}"]


@pytest.mark.slow
def test_training_resuming_scoring_and_exporting_warn_of_nothing(
    tmp_path: Path, small_params, small_set
):
    project = Project(tmp_path, small_params, small_set)
    project.change("train", epochs=30, schedule_epochs=30, early_stopping_patience=30)
    project.change("train", save_every_n_minutes=1e-9)
    process = project.start()
    project.wait_for_save(process)
    process.terminate()
    outputs = [process.communicate()[1]]
    assert process.returncode == 75
    assert "stopped, since" in outputs[0]
    project.change("train", epochs=3, schedule_epochs=30)
    for name in ("train", "evaluate", "export"):
        done = subprocess.run(stage(name), cwd=tmp_path, capture_output=True, text=True)
        outputs.append(done.stdout + done.stderr)
        assert done.returncode == 0, outputs[-1]
    assert "resuming from checkpoints/" in outputs[1]
    lines = [line for output in outputs for line in output.splitlines()]
    assert [line for line in lines if not LINE.match(line)] == []
    assert [line for line in lines if "warning" in line.lower()] == []
