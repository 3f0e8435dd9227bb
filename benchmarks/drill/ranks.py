"""SIGKILLs of one of two, three or four processes, at every batch of training and validation."""

import hashlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from drill.project import ROOT, make_project
from drill.steps import TRAIN
from multi_abnormality.config.schema import Params, load_params
from multi_abnormality.runtime.process_group import ProcessGroup
from multi_abnormality.training.training_step import TrainingStep

sys.path.insert(0, str(ROOT / "tests"))
from rank_tasks import run_on_ranks, train

SIZES = (2, 3, 4)
ACCUMULATE = {"accumulate_grad_batches": 2}


def every_batch(work: Path, row: Callable[..., None]) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    project = make_project(work / "ranks", patients=36, train=TRAIN | ACCUMULATE)
    project.set(model={"backbone": "test_efficientnet"}, machine={"workers": 0})
    for size in SIZES:
        project.set(train={"batch_size": 4 if size < 3 else 2 * size})
        params = load_params(project.root / "params.yaml")
        kills, same = kill_everywhere(params, project.root / "processed", work / f"{size}", size)
        row(f"{size} processes, accumulating: SIGKILLs, one at every batch", kills, "all")
        row(f"{size} processes: runs that ended byte-identical", same, kills)


def kill_everywhere(params: Params, processed: Path, work: Path, size: int) -> tuple[int, int]:
    """Kill a rank at each of its batches, in turns; return the kills and the runs that ended well.

    A batch that does not end an optimizer step only accumulates gradients.
    """

    def run(name: str, rank: int = 0, batch: int = 0) -> list[object]:
        return run_on_ranks(size, train_until, params, processed, work / name, rank, batch)

    batches = run("undisturbed")
    expected, kills, same = hashes(work / "undisturbed"), 0, 0
    for number in range(1, max(batches) + 1):
        rank = number % size if number <= batches[number % size] else 0
        kills += run(str(number), rank, number)[rank] == -signal.SIGKILL
        same += run(str(number)) != [] and hashes(work / str(number)) == expected
    return kills, same


def hashes(folder: Path) -> dict[str, str]:
    paths = [*(folder / "checkpoints").iterdir(), folder / "history.csv"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def train_until(
    ranks: ProcessGroup, params: Params, processed: Path, folder: Path, rank: int, batch: int
) -> int:
    """Train, and kill this process before its n-th batch; return the number of its batches."""
    done = 0

    def counted(original: Callable[..., object]) -> Callable[..., object]:
        def counting(*args: object) -> object:
            nonlocal done
            done += 1
            if done == batch and ranks.rank == rank:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args)

        return counting

    TrainingStep.accumulate = counted(TrainingStep.accumulate)
    TrainingStep.predict = counted(TrainingStep.predict)
    train(ranks, params, processed, folder, {})
    return done
