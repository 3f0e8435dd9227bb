"""What resuming costs: the time to the first new step, and what saves take from training."""

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from drill.project import ROOT, Project, kill


def start_and_saves(work: Path, row: Callable[..., None]) -> None:
    """On the whole sample with the default parameters, as `make repro` left it."""
    project = Project(work / "default")
    project.root.mkdir()
    shutil.copy(ROOT / "params.yaml", project.root)
    (project.root / "processed").symlink_to(ROOT / "processed")
    log = project.root / "log"
    train = ("python", "-m", "multi_abnormality.stages.train")

    project.set(train={"save_every_n_minutes": 1 / 6000})
    process = project.start(*train, log=log)
    wait_for_save(project, process, after=0)
    kill(process)
    started = time.time()
    process = project.start(*train, log=log)
    first_step = wait_for_save(project, process, after=started) - started
    kill(process)
    assert "resuming from" in log.read_text()
    row("start of the stage to the first new step, its save included", f"{first_step:.1f} s",
        "at most 10 s")  # fmt: skip

    shutil.rmtree(project.root / "checkpoints")
    shutil.copy(ROOT / "params.yaml", project.root)
    project.set(train={"epochs": 5})
    log.write_text("")
    if project.start(*train, log=log).wait():
        raise RuntimeError(log.read_text())
    (told,) = re.findall(r"they took .*", log.read_text())
    row("what saves cost training at the default cadence", told, "at most 1 %")


def wait_for_save(project: Project, process, after: float) -> float:
    """When last.ckpt was saved for the second time since `after`, by the clock."""
    last, seen = project.root / "checkpoints/last.ckpt", set()
    while len(seen) < 1 + (after == 0):
        if process.poll() is not None:
            raise RuntimeError((project.root / "log").read_text())
        if last.exists() and last.stat().st_mtime > after:
            seen.add(last.stat().st_mtime)
        time.sleep(0.005)
    return time.time()
