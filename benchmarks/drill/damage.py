"""Damaged checkpoints are never loaded, and a full disk loses no saved checkpoint."""

import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from drill.project import Project, kill, make_project
from multi_abnormality.runtime.checkpoint_io import load_checkpoint
from multi_abnormality.utils.errors import InputError

CUTS = 10
FLIPS = 200
TRAIN = {
    "epochs": 2,
    "schedule_epochs": 2,
    "save_every_n_minutes": 1 / 60,
}


def damaged_files(work: Path, row: Callable[..., None]) -> None:
    """Truncate last.ckpt of the default model, and flip single bits of it."""
    project = make_project(work / "damage", patients=30, train=TRAIN)
    kill_in_training(project)
    last = project.root / "checkpoints/last.ckpt"
    good = last.read_bytes()
    rng = random.Random(0)
    rejected = 0
    for number in range(CUTS + FLIPS):
        if number < CUTS:
            last.write_bytes(good[: rng.randrange(len(good))])
        else:
            offset = rng.randrange(len(good))
            with last.open("r+b") as file:
                file.seek(offset)
                file.write(bytes([good[offset] ^ 1 << rng.randrange(8)]))
        rejected += is_rejected(last)
        last.write_bytes(good)
    row("last.ckpt truncated or with a flipped bit: rejected", rejected, CUTS + FLIPS)
    last.write_bytes(good[: len(good) // 2])
    before = load_checkpoint(last.with_name("previous.ckpt"))["position"]
    output = project.run("dvc", "repro", "train")
    pattern = r"last\.ckpt: was cut short(?s:.*)resuming from \S+: epoch (\d+), batch (\d+) of"
    ((epoch, step),) = re.findall(pattern, output)
    row("(epoch, step) resumed at instead", (int(epoch), int(step)),
        f"of the previous checkpoint, {before['epoch'], before['batch']}")  # fmt: skip


def is_rejected(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except InputError:
        return True
    return False


def kill_in_training(project: Project) -> None:
    """Kill training once there are two generations of checkpoints."""
    log = project.root / "repro.log"
    process = project.start("dvc", "repro", "train", log=log)
    while not (project.root / "checkpoints/previous.ckpt").exists():
        if process.poll() is not None:
            raise RuntimeError(log.read_text())
    kill(process)


def full_disk(work: Path, row: Callable[..., None]) -> None:
    """Train with the checkpoints on a small tmpfs that fills up. Mounting it requires root."""
    undisturbed = make_project(work / "large disk", patients=30, train=TRAIN)
    limited = undisturbed.copy(work / "small disk")
    undisturbed.run("dvc", "repro", "train")
    disk = limited.root / "checkpoints"
    disk.mkdir()
    # Space for six checkpoints, but for only one next to the ballast.
    size = (undisturbed.root / "checkpoints/last.ckpt").stat().st_size
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={6 * size}", "tmpfs", disk],
                             text=True, capture_output=True)  # fmt: skip
    if mounted.returncode:
        row("full disk during a save", "not run: mounting a tmpfs requires root", "identical")
        return
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(9 * size // 2))
        output = limited.run("dvc", "repro", "train", ok=False)
        message = "cannot be written (No space left on device); what was there before is whole"
        row("full disk during a save: a clear error", "yes" if message in output else output, "yes")
        ballast.unlink()
        output = limited.run("python", "-m", "multi_abnormality.stages.train")
        row("with free space again: resumes", "resuming from" in output, True)
        identical = limited.hashes(("checkpoints", "metrics")) == undisturbed.hashes(
            ("checkpoints", "metrics")
        )
        row("and ends byte-identical", identical, True)
    finally:
        subprocess.run(["umount", disk], check=True)
        shutil.rmtree(disk)
