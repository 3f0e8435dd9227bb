"""The train stage as a process that gets signals, and as two processes at once."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.params import Params

TRAIN = [sys.executable, "-m", "multi_abnormality.stages.train"]


class Project:
    """A folder in which the train stage runs."""

    def __init__(self, root: Path, params: Params, processed: ProcessedSet) -> None:
        self.root = root
        shutil.copytree(processed.root, root / "processed")
        self.set(params.model_dump(mode="json"))

    def set(self, content: dict) -> None:
        (self.root / "params.yaml").write_text(yaml.safe_dump(content))

    def change(self, section: str, **changes: object) -> None:
        content = yaml.safe_load((self.root / "params.yaml").read_text())
        content[section] |= changes
        self.set(content)

    def start(self, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            TRAIN, cwd=self.root, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, start_new_session=True,
        )  # fmt: skip

    def run(self, **environment: str) -> tuple[int, str]:
        process = self.start(**environment)
        _, output = process.communicate()
        return process.returncode, output

    def wait_for_save(self, process: subprocess.Popen) -> None:
        while not (self.root / "checkpoints/previous.ckpt").exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)

    def content(self) -> dict[str, bytes]:
        files = [*self.root.glob("checkpoints/*"), *self.root.glob("metrics/*")]
        return {path.name: path.read_bytes() for path in files}


@pytest.fixture
def projects(tmp_path: Path, small_params: Params, small_set: ProcessedSet):
    """Makes projects whose training lasts a few seconds."""

    def make(name: str) -> Project:
        project = Project(tmp_path / name, small_params, small_set)
        project.change("train", epochs=20, early_stopping_patience=20, save_every_n_minutes=1e-9)
        project.change("machine", workers=1)
        return project

    return make


def test_signals_stop_at_the_step_and_kills_lose_nothing(projects):
    """Every process ends in another way; together they do what one does."""
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
    ended.change("machine", time_budget="1s")
    code, output = ended.run(SLURM_JOB_ID="1", SLURM_NTASKS="1", SLURM_JOB_NAME="train")
    assert code == 75, output
    assert "its time budget is used up" in output
    assert "resuming from checkpoints/last.ckpt: epoch" in output
    ended.change("machine", time_budget=None)
    assert ended.run()[0] == 0
    assert ended.content() == whole.content()


def test_a_second_training_in_a_folder_is_refused(projects):
    project = projects("one")
    project.change("train", epochs=1000)
    first = project.start()
    project.wait_for_save(first)
    code, output = project.run()
    assert code == 1
    assert f"process {first.pid} is training in this folder" in output
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    project.change("machine", time_budget="1s")
    assert project.run()[0] == 75
