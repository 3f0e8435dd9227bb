"""SIGKILLs of a small model at every step of two epochs and every validation batch."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from drill.project import ROOT, environment, make_project
from multi_abnormality.config.schema import load_params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.checkpoint_io import load_checkpoint
from multi_abnormality.runtime.graceful_stop import StopRequest
from multi_abnormality.runtime.training_run import RunPaths, TrainingRun

TRAIN = {
    "epochs": 2,
    "schedule_epochs": 2,
    "batch_size": 4,
    "slices_per_volume": 4,
    "save_every_n_minutes": 1 / 6000,
}


def every_step(work: Path, row: Callable[..., None]) -> None:
    project = make_project(work / "small", patients=36, train=TRAIN)
    project.set(model={"backbone": "test_efficientnet"}, machine={"workers": 0})
    command = [sys.executable, "-m", "drill.steps", str(project.root)]
    log = work / "steps.log"
    done = subprocess.run(
        command, cwd=work, stdout=subprocess.PIPE, stderr=log.open("w"),
        env=environment(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT / "benchmarks")),
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(log.read_text())
    found = json.loads(done.stdout.splitlines()[-1])
    row("small model: SIGKILLs, one at every step and validation batch", found["kills"], "all")
    row("small model: positions resumed from", f"{found['positions']} of {found['all']}", "all")
    row("small model: runs that ended byte-identical", found["same"], found["kills"])


class KillAt(StopRequest):
    """Kills its own process by SIGKILL at the n-th check for a stop request."""

    def __init__(self, check: int) -> None:
        super().__init__()
        self.left = check

    @property
    def reason(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def run(root: Path, folder: Path, check: int) -> int:
    """Train in a forked process and return its exit status."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        archive = CheckpointArchive(folder / "archive", folder / "cache")
        history = folder / "metrics/history.csv"
        paths = RunPaths(folder / "checkpoints", folder / "logs", history, archive)
        params = load_params(root / "params.yaml")
        TrainingRun(params, ProcessedDataset(root / "processed"), paths).run(KillAt(check))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def hashes(folder: Path) -> dict[str, str]:
    paths = [*(folder / "checkpoints").iterdir(), folder / "metrics/history.csv"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def main() -> None:
    root = Path(sys.argv[1])
    run(root, root / "straight", 0)
    expected = hashes(root / "straight")
    positions, same, kills = set(), 0, 0
    while run(root, root / str(kills + 1), kills + 1) == -signal.SIGKILL:
        kills += 1
        folder = root / str(kills)
        last = folder / "checkpoints/last.ckpt"
        if last.exists():
            positions.add(tuple(load_checkpoint(last)["position"].values()))
        same += run(root, folder, 0) == 0 and hashes(folder) == expected
    batches = max(batch for _, batch in positions)
    found = {
        "kills": kills,
        "positions": len(positions),
        "all": 2 * (batches + 1) - 1,
        "same": same,
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
