"""SIGKILLs of `dvc repro` at random times, with the default model: the result is identical."""

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from drill.project import Project, kill, make_project

RUNS = 10
KILLS = 5  # per run
TRAIN = {
    "epochs": 5,
    "schedule_epochs": 5,
    "save_every_n_epochs": 2,
    "save_every_n_minutes": 2 / 60,
}
SEED = 20


def random_kills(work: Path, row: Callable[..., None]) -> None:
    """Kill `dvc repro` repeatedly at random times, then let it finish."""
    undisturbed = make_project(work / "undisturbed", patients=70, train=TRAIN)
    killed = undisturbed.copy(work / "before")
    undisturbed.run("dvc", "repro")
    rng = random.Random(SEED)
    same = landed = 0
    phases: Counter[str] = Counter()
    for number in range(RUNS):
        project = killed.copy(work / f"run {number}")
        log = project.root / "repro.log"
        for _ in range(KILLS):
            phase = kill_once(project, log, rng)
            landed += phase is not None
            phases[phase or "missed"] += 1
        process = project.start("dvc", "repro", log=log)
        process.wait()
        identical = process.returncode == 0 and project.hashes() == undisturbed.hashes()
        same += identical
        if identical:  # keep the others for inspection
            shutil.rmtree(project.root)
    row("random SIGKILLs of `dvc repro` during training", landed, RUNS * KILLS)
    row("phases of the kills", dict(phases), "each kind")
    row("runs that ended byte-identical", same, RUNS)


def kill_once(project: Project, log: Path, rng: random.Random) -> str | None:
    """Kill a `dvc repro` during training; return the phase, or None if it ended before."""
    checkpoints = project.root / "checkpoints"
    offset = log.stat().st_size if log.exists() else 0
    process = project.start("dvc", "repro", log=log)
    while not is_training(log, offset):
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


def is_training(log: Path, offset: int) -> bool:
    """Whether training has logged its start, after byte `offset` of the log."""
    text = log.read_bytes()[offset:].decode(errors="replace") if log.exists() else ""
    return "training starts at" in text or "resuming from" in text
