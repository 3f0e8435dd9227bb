"""Launching and supervising ranks, here small programs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from multi_abnormality.runtime import lost_ranks
from multi_abnormality.runtime.fabric_setup import DETERMINISTIC_NCCL, set_deterministic_nccl
from multi_abnormality.runtime.graceful_stop import SIGNALS
from multi_abnormality.runtime.launcher import launch_ranks
from multi_abnormality.utils.errors import InputError


@pytest.fixture(autouse=True)
def _restored_handlers():
    """Restore signal handlers, since a launcher's process usually ends with its ranks."""
    numbers = (*SIGNALS, signal.SIGHUP, signal.SIGQUIT)
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


RANK = "import os, signal, sys, time; rank = int(os.environ['RANK']); "


def launch(program: str, size: int = 2) -> int:
    """Return the exit code of ranks that run a program."""
    with pytest.raises(SystemExit) as ended:
        launch_ranks(size, [sys.executable, "-c", RANK + program], grace=0)
    return ended.value.code


@pytest.mark.parametrize(
    ("codes", "expected"), [([0, 0, 0], 0), ([75, 75, 75], 75), ([0, 1, 0], 1), ([1, 75, 1], 1)]
)
def test_launcher_exits_as_its_ranks(
    codes: list[int], expected: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lost_ranks, "EXIT_TIMEOUT", 300)  # a busy machine starts them one by one
    assert launch(f"sys.exit({codes}[rank])", len(codes)) == expected


def test_killed_rank_and_its_signal_are_named_and_the_others_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lost_ranks, "EXIT_TIMEOUT", 0.5)
    others = set(psutil.Process().children())  # of other tests
    program = RANK + "rank == 1 and os.kill(os.getpid(), signal.SIGKILL); time.sleep(9999)"
    with pytest.raises(InputError, match=r"rank 1 was killed by SIGKILL\. The last checkpoint"):
        launch_ranks(3, [sys.executable, "-c", program], grace=0)
    assert set(psutil.Process().children()) <= others


def test_rank_zero_has_a_grace_period_once_another_has_failed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lost_ranks, "EXIT_TIMEOUT", 0.1)
    program = RANK + "rank or time.sleep(2); sys.exit(1 if rank else 0)"
    with pytest.raises(SystemExit) as ended:
        launch_ranks(2, [sys.executable, "-c", program], grace=60)
    assert ended.value.code == 1


def test_signals_are_forwarded_to_rank_zero():
    program = (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); "
        "rank or os.kill(os.getppid(), signal.SIGTERM); time.sleep(0 if rank else 300)"
    )
    assert launch(program) == 75


def test_rank_that_cannot_handle_a_signal_yet_has_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert launch("rank or os.kill(os.getppid(), signal.SIGUSR1); time.sleep(300)", 1) == 75
    assert (tmp_path / "logs/stopped").exists()


@pytest.mark.slow
def test_ranks_end_with_a_killed_launcher():
    rank = (
        "from multi_abnormality.runtime.launcher import end_with_launcher; import os, time; "
        "end_with_launcher(); print(os.getpid(), flush=True); time.sleep(300)"
    )
    program = (
        "import sys; from multi_abnormality.runtime.launcher import launch_ranks; "
        f"launch_ranks(2, [sys.executable, '-c', {rank!r}], 0)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    ranks = [psutil.Process(int(process.stdout.readline())) for _ in range(2)]
    process.kill()
    process.communicate()
    _, left = psutil.wait_procs(ranks, timeout=300)
    assert not left


def test_rank_whose_launcher_is_gone_ends():
    environment = os.environ | {"MULTI_ABNORMALITY_LAUNCHER": "1"}
    program = "from multi_abnormality.runtime.launcher import end_with_launcher as e; e()"
    done = subprocess.run([sys.executable, "-c", program], env=environment)
    assert done.returncode == -signal.SIGKILL


def test_nccl_settings_that_are_not_repeatable_are_refused(monkeypatch: pytest.MonkeyPatch):
    for name in DETERMINISTIC_NCCL:
        monkeypatch.setenv(name, "")  # so that what is set here is undone
        monkeypatch.delenv(name)
    set_deterministic_nccl()
    assert {name: os.environ[name] for name in DETERMINISTIC_NCCL} == DETERMINISTIC_NCCL
    monkeypatch.setenv("NCCL_ALGO", "Tree")
    with pytest.raises(InputError, match=r"NCCL_ALGO=Tree: train\.deterministic needs Ring; unset"):
        set_deterministic_nccl()
