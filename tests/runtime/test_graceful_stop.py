"""Stop requests by signals."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from multi_abnormality.runtime import graceful_stop
from multi_abnormality.runtime.graceful_stop import StopRequest


def test_a_signal_that_arrives_twice_at_once_stops_gracefully():
    """Systems send it to all processes of a job, and the launcher forwards it."""
    with StopRequest() as stop:
        assert stop.reason is None
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason == "it received SIGTERM"


def test_a_signal_is_logged_by_the_next_check(caplog):
    """A handler that logs while it interrupts a log call can wait for a lock forever."""
    caplog.set_level("INFO", logger="multi_abnormality")
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert caplog.text == ""
        assert stop.reason == stop.reason == "it received SIGTERM"
    assert caplog.text.count("SIGTERM") == 1


def test_a_later_signal_ends_the_process():
    program = (
        "import os, signal, time; from multi_abnormality.runtime import graceful_stop\n"
        "graceful_stop.REPEAT_AFTER = 0.1\n"
        "with graceful_stop.StopRequest():\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.3)\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGTERM
    assert graceful_stop.REPEAT_AFTER > 0.5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signal_before_training_exits_with_75_and_leaves_the_mark(number: int, tmp_path: Path):
    """The stage installs the handlers before it imports PyTorch, which takes seconds."""
    program = (
        "import os, runpy, sys\n"
        "class Importing:\n"
        "    def find_spec(self, name, *_):\n"
        f"        name == 'torch' and os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Importing())\n"
        "runpy.run_module('multi_abnormality.stages.train', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    name = signal.Signals(number).name
    assert done.stderr == f"stopped, since it received {name}; `dvc repro` continues\n"
    assert done.returncode == 75
    assert (tmp_path / "logs/stopped").exists()


@pytest.mark.slow
def test_mark_of_an_earlier_stop_does_not_outlive_an_error(tmp_path: Path):
    """Scripts requeue a job as long as the file exists."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/stopped").touch()
    command = [sys.executable, "-m", "multi_abnormality.stages.train"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert "params.yaml" in done.stderr
    assert not (tmp_path / "logs/stopped").exists()


def test_signal_after_a_finished_training_does_not_fail_the_stage():
    """The interpreter resets the handlers before it deletes modules, which takes a while."""
    program = (
        "import os\n"
        "from multi_abnormality.runtime.graceful_stop import exit_on_signals\n"
        "from multi_abnormality.runtime.process_group import run_rank\n"
        "class Last:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid()): kill(pid, 15)\n"
        "last = Last()\n"
        "exit_on_signals()\n"
        "run_rank(lambda: None)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
