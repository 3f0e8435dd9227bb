"""The train stage as a subprocess: signals, and two at once."""

import os
import signal
from pathlib import Path

import pytest

from multi_abnormality.config.schema import Params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from train_stage import Project


@pytest.fixture
def projects(tmp_path: Path, small_params: Params, small_set: ProcessedDataset):
    """Factory of projects that train for a few seconds."""

    def make(name: str) -> Project:
        project = Project(tmp_path / name, small_params, small_set)
        project.change("train", epochs=20, early_stopping_patience=20, save_every_n_minutes=1e-9)
        project.change("machine", workers=1)
        return project

    return make


@pytest.mark.slow
def test_exact_resume_after_signals_and_kills(projects):
    """Each process is ended in another way; the last one ends with an uninterrupted run's bytes."""
    whole, ended = projects("whole"), projects("a folder, mit Umlaut ü")
    assert whole.run()[0] == 0
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        process = ended.start()
        ended.wait_for_save(process)
        os.killpg(process.pid, number)  # loader workers get it too, as from a terminal
        output = process.communicate()[1]
        assert process.returncode == (-9 if number == signal.SIGKILL else 75), output
        assert "Traceback" not in output
        (ended.root / "checkpoints/previous.ckpt").unlink()
    ended.change("machine", max_time="1s")
    code, output = ended.run(SLURM_JOB_ID="1", SLURM_NTASKS="1", SLURM_JOB_NAME="train")
    assert code == 75, output
    assert "its time budget is used up" in output
    assert "resuming from checkpoints/last.ckpt: epoch" in output
    ended.change("machine", max_time=None)
    assert ended.run()[0] == 0
    assert ended.content() == whole.content()


@pytest.mark.slow
def test_concurrent_run_in_one_directory_is_refused(projects):
    project = projects("one")
    project.change("train", epochs=1000)
    first = project.start()
    project.wait_for_save(first)
    code, output = project.run()
    assert code == 1
    assert f"process {first.pid} is training in this folder" in output
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    project.change("machine", max_time="1s")
    assert project.run()[0] == 75
