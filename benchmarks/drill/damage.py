"""Damaged checkpoints are never loaded, and a full disk costs nothing that was saved."""

import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from drill.project import Project, kill, make_project
from multi_abnormality.errors import InputError
from multi_abnormality.training.files import load_checkpoint

CUTS = 10
FLIPS = 200
TRAIN = {
    "epochs": 2,
    "schedule_epochs": 2,
    "save_every_n_minutes": 1 / 60,
}


def damaged_files(work: Path, row: Callable[..., None]) -> None:
    """last.ckpt of the shipped model cut short, and with one bit flipped."""
    project = make_project(work / "damage", patients=30, train=TRAIN)
    kill_in_training(project)
    last = project.root / "checkpoints/last.ckpt"
    good = last.read_bytes()
    rng = random.Random(0)
    refused = 0
    for number in range(CUTS + FLIPS):
        if number < CUTS:
            last.write_bytes(good[: rng.randrange(len(good))])
        else:
            place = rng.randrange(len(good))
            with last.open("r+b") as file:
                file.seek(place)
                file.write(bytes([good[place] ^ 1 << rng.randrange(8)]))
        refused += is_refused(last)
        last.write_bytes(good)
    row("last.ckpt cut short or with one bit flipped: refused", refused, CUTS + FLIPS)
    last.write_bytes(good[: len(good) // 2])
    before = load_checkpoint(last.with_name("previous.ckpt"))["position"]
    output = project.run("dvc", "repro", "train")
    told = r"last\.ckpt: was cut short(?s:.*)resuming from \S+: epoch (\d+), step (\d+) of"
    ((epoch, step),) = re.findall(told, output)
    row("the (epoch, step) that serves in its place", (int(epoch), int(step)),
        f"that of the one before, {before['epoch'], before['batch']}")  # fmt: skip


def is_refused(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except InputError:
        return True
    return False


def kill_in_training(project: Project) -> None:
    """Train until there are two generations, then kill it."""
    log = project.root / "repro.log"
    process = project.start("dvc", "repro", "train", log=log)
    while not (project.root / "checkpoints/previous.ckpt").exists():
        if process.poll() is not None:
            raise RuntimeError(log.read_text())
    kill(process)


def full_disk(work: Path, row: Callable[..., None]) -> None:
    """A checkpoints folder on a small tmpfs that fills up. Mounting one takes root."""
    whole = make_project(work / "roomy", patients=30, train=TRAIN)
    cramped = whole.copy(work / "cramped")
    whole.run("dvc", "repro", "train")
    disk = cramped.root / "checkpoints"
    disk.mkdir()
    # Room for five checkpoints of 82 MB; beside the ballast for one, and not for the next.
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500m", "tmpfs", disk], text=True,
                             capture_output=True)  # fmt: skip
    if mounted.returncode:
        row("a full disk while saving", "not run: mounting a tmpfs takes root", "identical")
        return
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(350 << 20))
        output = cramped.run("dvc", "repro", "train", ok=False)
        told = "cannot be written (No space left on device); what was there before is whole"
        row("a full disk while saving: a clear error", "yes" if told in output else output, "yes")
        ballast.unlink()
        output = cramped.run("python", "-m", "multi_abnormality.stages.train")
        row("after room is made: goes on", "resuming from" in output, True)
        identical = cramped.hashes(("checkpoints", "metrics")) == whole.hashes(
            ("checkpoints", "metrics")
        )
        row("and ends byte-identical", identical, True)
    finally:
        subprocess.run(["umount", disk], check=True)
        shutil.rmtree(disk)
