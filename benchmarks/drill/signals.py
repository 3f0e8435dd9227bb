"""SIGTERM, SIGUSR1 and SIGINT at random moments: training always exits, and resumes exactly."""

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from drill.project import ROOT, Project, environment, make_project
from drill.steps import TRAIN
from multi_abnormality.runtime.graceful_stop import exit_on_signals
from multi_abnormality.runtime.process_group import run_rank
from multi_abnormality.stages.train import main as train
from multi_abnormality.utils import console

COUNT = 200
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
TIMEOUT = 300.0  # s after which a process hangs
SEED = 7
FILES = ("checkpoints", "metrics")


def random_signals(work: Path, row: Callable[..., None]) -> None:
    project = make_project(work / "signals", patients=36, train=TRAIN | {"epochs": 4})
    project.set(model={"backbone": "test_efficientnet"}, machine={"workers": 1})
    command = [sys.executable, "-m", "drill.signals", str(project.root), str(COUNT)]
    log = work / "signals.log"
    done = subprocess.run(
        command, cwd=work, stdout=subprocess.PIPE, stderr=log.open("w"),
        env=environment(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT / "benchmarks")),
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(log.read_text())
    found = json.loads(done.stdout.splitlines()[-1])
    row("small model: signals at random moments", found["signals"], COUNT)
    row("small model: exits after a signal", found["exits"], "75, or 0 at the end")
    row("small model: processes that hung", found["hung"], 0)
    row("small model: byte-identical runs", f"{found['same']} of {found['runs']}", "all")


def start(root: Path) -> int:
    """Run the train stage in a forked process, which saves the imports."""
    pid = os.fork()
    with suppress(OSError):  # the other one was first
        os.setpgid(pid, pid)
    if pid:
        return pid
    os.chdir(root)
    exit_on_signals()
    return run_rank(lambda: console.run(train))


def end(pid: int, seconds: float) -> int | None:
    """Return the exit status of a process, or None if it does not end in time."""
    handle = os.pidfd_open(pid)
    ready, _, _ = select.select([handle], [], [], seconds)
    os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if ready else None


def main() -> None:
    root, count = Path(sys.argv[1]), int(sys.argv[2])
    fresh = Project(root).copy(root.with_name("fresh"))
    started = time.monotonic()
    if end(start(root), TIMEOUT) != 0:
        raise RuntimeError("the undisturbed run failed")
    duration, expected = time.monotonic() - started, Project(root).hashes(FILES)
    rng, exits = random.Random(SEED), Counter()
    signals = hung = runs = same = 0
    while signals < count:
        project = fresh.copy(root.with_name("run"))
        while signals < count:
            pid = start(project.root)
            code = end(pid, rng.uniform(0, duration / 4))
            if code is None:
                os.killpg(pid, rng.choice(SIGNALS))  # loader workers get it, too
                signals += 1
                code = end(pid, TIMEOUT)
                exits[str(code)] += 1
            if code is None:
                hung += 1
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            if code not in (75, None):
                break
        if end(start(project.root), TIMEOUT) == 0:
            same += project.hashes(FILES) == expected
        runs += 1
        shutil.rmtree(project.root)
    found = {"signals": signals, "exits": dict(exits), "hung": hung, "runs": runs, "same": same}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
