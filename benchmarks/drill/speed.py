"""Speed of resuming and saving: time to the first new step, and training time spent on saves."""

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from drill.project import ROOT, Project, kill


def start_and_saves(work: Path, row: Callable[..., None]) -> None:
    """Measure on the whole sample with default parameters; needs the outputs of `make repro`."""
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
    row("start of the stage to the save after the first new step", f"{first_step:.1f} s",
        "at most 10 s")  # fmt: skip

    shutil.rmtree(project.root / "checkpoints")
    shutil.copy(ROOT / "params.yaml", project.root)
    project.set(train={"epochs": 5})
    log.write_text("")
    if project.start(*train, log=log).wait():
        raise RuntimeError(log.read_text())
    (summary,) = re.findall(r"they took .*", log.read_text())
    row("training time spent on saves at the default interval", summary, "at most 1 %")


def wait_for_save(project: Project, process, after: float) -> float:
    """Wait for a save of last.ckpt after time `after` (for two saves if 0); return the time."""
    last, seen = project.root / "checkpoints/last.ckpt", set()
    while len(seen) < 1 + (after == 0):
        if process.poll() is not None:
            raise RuntimeError((project.root / "log").read_text())
        if last.exists() and last.stat().st_mtime > after:
            seen.add(last.stat().st_mtime)
        time.sleep(0.005)
    return time.time()
