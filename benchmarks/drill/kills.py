"""SIGKILL at random moments, and at every step: the end is the same to the byte."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from drill.project import Project, environment, make_project
from multi_abnormality.training.files import load_checkpoint

RUNS = 10
KILLS = 5  # a run
TRAIN = {
    "epochs": 5,
    "schedule_epochs": 5,
    "save_every_n_epochs": 2,
    "save_every_n_minutes": 2 / 60,
}
SEED = 20


def random_kills(work: Path, row: Callable[..., None]) -> None:
    """`dvc repro` killed at random moments, over and over, until it comes through."""
    whole = make_project(work / "whole", patients=70, train=TRAIN)
    killed = whole.copy(work / "before")
    whole.run("dvc", "repro")
    rng = random.Random(SEED)
    same = landed = 0
    moments: Counter[str] = Counter()
    for number in range(RUNS):
        project = killed.copy(work / f"run {number}")
        log = project.root / "repro.log"
        for _ in range(KILLS):
            moment = kill_once(project, log, rng)
            landed += moment is not None
            moments[moment or "missed"] += 1
        process = project.start("dvc", "repro", log=log)
        process.wait()
        identical = process.returncode == 0 and project.hashes() == whole.hashes()
        same += identical
        if identical:  # the others are kept to look at
            shutil.rmtree(project.root)
    row("random SIGKILLs of `dvc repro` that landed while training ran", landed, RUNS * KILLS)
    row("the moments", dict(moments), "each kind")
    row("runs that ended byte-identical", same, RUNS)


def kill_once(project: Project, log: Path, rng: random.Random) -> str | None:
    """Kill one `dvc repro` while it trains; in which moment that was. None: it ended before."""
    checkpoints = project.root / "checkpoints"
    told = log.stat().st_size if log.exists() else 0
    process = project.start("dvc", "repro", log=log)
    while not is_training(log, told):
        if process.poll() is not None:
            return None
        time.sleep(0.05)
    in_save = rng.random() < 0.3
    deadline = time.monotonic() + rng.uniform(0.5, 8)
    while process.poll() is None:
        saving = any(checkpoints.glob(".*.tmp"))
        if (saving and in_save) or (time.monotonic() >= deadline and not in_save):
            alive = process.poll() is None
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return ("in a save" if saving else "in training") if alive else None
        time.sleep(0.001)
    return None


def is_training(log: Path, told: int) -> bool:
    """Whether the train stage has said from where it goes, since `told` bytes of its log."""
    text = log.read_bytes()[told:].decode(errors="replace") if log.exists() else ""
    return "training starts at" in text or "resuming from" in text


STEPPER = """
import os, signal, sys
from pathlib import Path
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.params import load_params
from multi_abnormality.training.aside import Aside
from multi_abnormality.training.fit import Places, Training
from multi_abnormality.training.stopping import StopRequest

class KillAt(StopRequest):
    looks = 0
    @property
    def reason(self):
        self.looks += 1
        if self.looks == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)

aside = Aside(Path("aside"), Path("cache"))
places = Places(Path("checkpoints"), Path("logs"), Path("metrics/history.csv"), aside)
Training(load_params(), ProcessedSet(Path("processed")), places).run(KillAt())
"""


def every_step(work: Path, row: Callable[..., None]) -> None:
    """A small net killed at each step of its epochs, and at each batch of a validation."""
    small = {"epochs": 2, "schedule_epochs": 2, "batch_size": 4, "slices": 4}
    first = make_project(work / "small", patients=36, train=small)
    first.set(
        model={"backbone": "test_efficientnet"},
        train={"save_every_n_minutes": 1 / 6000},
        machine={"workers": 0},
    )
    whole = first.copy(work / "small whole")
    step(whole, 0)
    expected = whole.hashes(("checkpoints", "metrics"))
    places, same, look = set(), 0, 0
    while True:
        look += 1
        project = first.copy(work / "small killed")
        if step(project, look) == 0:
            shutil.rmtree(project.root)
            break
        last = project.root / "checkpoints/last.ckpt"
        if last.exists():
            places.add(tuple(load_checkpoint(last)["position"].values()))
        step(project, 0)
        same += project.hashes(("checkpoints", "metrics")) == expected
        shutil.rmtree(project.root)
    row("small net: SIGKILLs, one at every step and validation batch", look - 1, "all")
    row("small net: positions in two epochs gone on from", len(places), "all")
    row("small net: runs that ended byte-identical", same, look - 1)


def step(project: Project, look: int) -> int:
    command = [sys.executable, "-c", STEPPER, str(look)]
    return subprocess.run(
        command, cwd=project.root, env=environment(OMP_NUM_THREADS="1"), capture_output=True
    ).returncode
