"""Loss of the machine within an epoch, and a Drive that fails one request in five."""

import itertools
import json
import random
import re
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from chest_phantom.settings import Settings
from drill.project import ROOT, Project, kill, make_project
from multi_abnormality.runtime.checkpoint_io import load_checkpoint

sys.path.insert(0, str(ROOT / "tests"))
from drive_stand_in import DRIVE_CALLS, USER, DriveProcess, Faults, remote_options, write_remote

SAVE_SECONDS = 4
TRAIN = {
    "epochs": 5,
    "schedule_epochs": 5,
    "save_every_n_epochs": 2,
    "save_every_n_minutes": SAVE_SECONDS / 60,
}
FAULTS = Faults(("rate_limit", "server_error", "unavailable"), share=0.2, only=DRIVE_CALLS)


def publish(project: Project, origin: Path) -> None:
    project.run("git", "init", "--quiet", "--bare", "--initial-branch", "main", str(origin))
    project.run("git", "remote", "add", "origin", str(origin))
    project.run("git", "push", "--quiet", "--set-upstream", "origin", "main")


def lost_machine(work: Path, row: Callable[..., None]) -> None:
    """Train with a backup, kill and delete everything within an epoch, restore elsewhere."""
    undisturbed = make_project(work / "undisturbed", patients=70, train=TRAIN)
    origin, remote = work / "origin.git", {"url": str(work / "remote")}
    publish(undisturbed, origin)
    lost = undisturbed.copy(work / "lost")
    undisturbed.run("dvc", "repro")
    write_remote(lost.root, "backup", remote)
    process = lost.start("dvc", "repro", log=work / "lost.log")
    wait_for_states(lost, process, work / "lost.log", states=2)
    time.sleep(random.Random(1).uniform(1, SAVE_SECONDS))
    kill(process)
    before = position(lost)
    shutil.rmtree(lost.root)

    found = clone(origin, work / "found", remote)
    found.run("python", "-m", "multi_abnormality", "resume")
    found.run("dvc", "pull", "--allow-missing")
    restored = position(found)
    output = found.run("dvc", "repro", "--allow-missing")
    row("machine lost at (epoch, step) / resumed at", f"{before} / {restored}",
        f"at most {SAVE_SECONDS} s of steps apart")  # fmt: skip
    row("without data/, preprocess", "skipped" if "Stage 'preprocess' didn't" in output else output,
        "skipped")  # fmt: skip
    row("ends byte-identical", found.hashes() == undisturbed.hashes(), True)


def clone(origin: Path, root: Path, remote: dict[str, str]) -> Project:
    found = Project(root)
    root.mkdir()
    found.run("git", "clone", "--quiet", str(origin), ".")
    write_remote(found.root, "backup", remote)
    return found


def position(project: Project) -> tuple[int, int]:
    """Return (epoch, batch) of the newest checkpoint."""
    paths = (project.root / "checkpoints").glob("*.ckpt")
    return max(tuple(load_checkpoint(path)["position"].values()) for path in paths)


def wait_for_states(project: Project, process, log: Path, states: int) -> None:
    """Wait until this many states (not only inputs) are backed up."""
    upload_log = project.root / ".dvc/tmp/backup.json"
    while process.poll() is None:
        backups = json.loads(upload_log.read_text())["backups"] if upload_log.exists() else []
        if sum(backup["epochs"] is not None for backup in backups) >= states:
            return
        time.sleep(0.05)
    raise RuntimeError(f"training ended first:\n{log.read_text()}")


def failing_drive(work: Path, row: Callable[..., None]) -> None:
    """Train with default parameters and backups to a Drive that often fails."""
    base = make_project(work / "drive base", patients=Settings().patients, train={})
    shutil.copy(ROOT / "params.yaml", base.root)
    origin = work / "drive origin.git"
    publish(base, origin)
    seconds: dict[bool, list[list[float]]] = {False: [], True: []}
    for turn in range(4):
        project = base.copy(work / f"drive {turn}")
        log = work / f"drive {turn}.log"
        with ExitStack() as stack:
            environment = {}
            if with_backup := turn % 2 == 1:  # to an empty Drive
                drive_folder = work / f"drive of {turn}"
                drive_folder.mkdir()
                drive = stack.enter_context(DriveProcess(drive_folder, FAULTS, low_priority=True))
                environment, remote = drive.environment(), remote_options(drive_folder, USER)
                write_remote(project.root, "backup", remote)
            process = project.start("dvc", "repro", "train", log=log, **environment)
            seconds[with_backup].append(seconds_of_epochs(process, log))
            if turn < 3:
                continue
            text, upload_log = log.read_text(), project.root / ".dvc/tmp/backup.json"
            backups = json.loads(upload_log.read_text())["backups"]
            row("requests failed by the Drive", sum(drive.counts()["faults"].values()),
                "one in 5")  # fmt: skip
            logged = len(re.findall(r": [0-9.]+ MB in", text))
            row("completed backups", len(backups), f"{logged}, as logged")
            row("the last state is backed up", "all is backed up" in text, True)
            # The faster of two turns per epoch, to reduce the effect of other load.
            backed_up, alone = (
                sum(map(min, zip(*seconds[which], strict=True))) for which in (True, False)
            )
            ratio = f"{backed_up:.1f} / {alone:.1f} = {backed_up / alone:.3f}"
            row("seconds of training with a backup / without", ratio, "at most 1.02")
            found = clone(origin, work / "drive found", remote)
            for command in (
                ("python", "-m", "multi_abnormality", "resume"),
                ("dvc", "pull", "--allow-missing"),
            ):
                found.run(*command, **environment)
    same = found.hashes(("checkpoints",)) == project.hashes(("checkpoints",))
    row("restored checkpoints equal the backed-up ones", same, True)


def seconds_of_epochs(process, log: Path) -> list[float]:
    """Measure the duration of each epoch; times in the log have a resolution of 1 s."""
    times: list[float] = []
    while process.poll() is None:
        text = log.read_text(errors="replace")
        logged = text.count("training starts at") + len(re.findall(r" epoch \d+, the last", text))
        times += [time.monotonic()] * (logged - len(times))
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(log.read_text())
    return [end - start for start, end in itertools.pairwise(times)]
