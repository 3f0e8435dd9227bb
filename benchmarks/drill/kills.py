"""`dvc repro` of the shipped model, SIGKILLed at random moments: it ends with the same bytes."""

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from drill.project import Project, kill, make_project

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
            kill(process)
            return ("in a save" if saving else "in training") if alive else None
        time.sleep(0.001)
    return None


def is_training(log: Path, told: int) -> bool:
    """Whether the train stage has said from where it goes, since `told` bytes of its log."""
    text = log.read_bytes()[told:].decode(errors="replace") if log.exists() else ""
    return "training starts at" in text or "resuming from" in text
