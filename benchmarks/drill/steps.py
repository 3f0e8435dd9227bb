"""A small net, SIGKILLed at every single step of two epochs and at every batch of a validation."""

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
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.params import load_params
from multi_abnormality.training.aside import Aside
from multi_abnormality.training.files import load_checkpoint
from multi_abnormality.training.fit import Places, Training
from multi_abnormality.training.stopping import StopRequest

TRAIN = {
    "epochs": 2,
    "schedule_epochs": 2,
    "batch_size": 4,
    "slices": 4,
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
    row("small net: SIGKILLs, one at every step and validation batch", found["kills"], "all")
    row("small net: positions gone on from", f"{found['positions']} of {found['all']}", "all")
    row("small net: runs that ended byte-identical", found["same"], found["kills"])


class KillAt(StopRequest):
    """SIGKILLs its own process at the n-th time that training looks whether to stop."""

    def __init__(self, look: int) -> None:
        super().__init__()
        self.left = look

    @property
    def reason(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def run(root: Path, folder: Path, look: int) -> int:
    """Train in a process of its own; its exit status."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        aside = Aside(folder / "aside", folder / "cache")
        history = folder / "metrics/history.csv"
        places = Places(folder / "checkpoints", folder / "logs", history, aside)
        params = load_params(root / "params.yaml")
        Training(params, ProcessedSet(root / "processed"), places).run(KillAt(look))
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
    places, same, kills = set(), 0, 0
    while run(root, root / str(kills + 1), kills + 1) == -signal.SIGKILL:
        kills += 1
        folder = root / str(kills)
        last = folder / "checkpoints/last.ckpt"
        if last.exists():
            places.add(tuple(load_checkpoint(last)["position"].values()))
        same += run(root, folder, 0) == 0 and hashes(folder) == expected
    batches = max(batch for _, batch in places)
    found = {"kills": kills, "positions": len(places), "all": 2 * (batches + 1) - 1, "same": same}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
