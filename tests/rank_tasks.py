"""Functions that tests run on several ranks."""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed

from multi_abnormality.config.schema import Params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.graceful_stop import EXIT_CODE, Stopped, StopRequest
from multi_abnormality.runtime.process_group import DistributedContext
from multi_abnormality.runtime.rank_info import RankInfo
from multi_abnormality.runtime.training_run import RunPaths, TrainingRun
from multi_abnormality.utils.errors import InputError
from stops import StopAtCheck

# A server process without threads that has imported everything, so that forking is fast.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["multi_abnormality.runtime.training_run"])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def run_on_ranks(
    size: int,
    work: Callable[..., object],
    *args: object,
    before: Callable[[RankInfo], None] | None = None,
) -> list[object]:
    """Return each rank's result of `work(ranks, *args)`, its error message or its exit code."""
    port, results = free_port(), _context.SimpleQueue()
    processes = [
        _context.Process(
            target=_run,
            args=(
                RankInfo(rank, size, rank, size, "127.0.0.1", port, True),
                results,
                work,
                args,
                before,
            ),
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    returned = {}
    while not results.empty():
        returned |= dict([results.get()])
    return [returned.get(rank, process.exitcode) for rank, process in enumerate(processes)]


def _run(
    info: RankInfo,
    results: multiprocessing.SimpleQueue,
    work: Callable[..., object],
    args: tuple,
    before: Callable[[RankInfo], None] | None,
) -> None:
    if before:
        before(info)
    try:
        with DistributedContext(info) as ranks:
            outcome = work(ranks, *args)
    except Stopped:
        sys.exit(EXIT_CODE)
    except InputError as error:
        outcome = str(error)
    results.put((info.rank, outcome))


def run_collectives(ranks: DistributedContext) -> list[object]:
    """Run every collective operation once."""
    weight, statistic = torch.full((2, 3), float(ranks.rank)), torch.tensor([3.0 * ranks.rank])
    ranks.all_reduce_mean([weight.T, statistic])
    volumes = torch.tensor(ranks.shard_indices(7))
    return [
        ranks.broadcast_object(f"from {ranks.rank}"),
        ranks.all_gather_scalar(ranks.rank / 3),
        ranks.any_reason("it was asked to" if ranks.rank == 1 else None),
        ranks.any_reason(None),
        [weight.unique().tolist(), statistic.tolist()],
        ranks.all_gather_volumes(volumes).tolist(),
    ]


def kill_rank(ranks: DistributedContext, lost: int) -> None:
    """Kill one rank while the others wait for it."""
    ranks.all_gather_scalar(0.0)  # all ranks are connected
    if ranks.rank == lost:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.all_gather_scalar(0.0)


def kill_rank_zero_in_rendezvous(info: RankInfo) -> None:
    """Kill rank 0 after all ranks are connected and before the process group is initialized."""
    if info.rank == 0:
        distributed.init_process_group = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)


class KillAtCheck(StopAtCheck):
    """Kills this process at the n-th check for a stop request."""

    @property
    def reason(self) -> str | None:
        if super().reason:
            os.kill(os.getpid(), signal.SIGKILL)
        return None


class RecordSeed(StopRequest):
    """Records torch's seed at each check for a stop request."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    @property
    def reason(self) -> str | None:
        self.seen.append(torch.initial_seed())
        return None


def train(
    ranks: DistributedContext,
    params: Params,
    processed: Path,
    folder: Path,
    stops: dict[int, StopRequest],
) -> str | list[int]:
    """Train with the stop requests of some ranks; return what a RecordSeed has recorded."""
    paths = RunPaths(
        folder / "checkpoints",
        folder / "logs",
        folder / "history.csv",
        CheckpointArchive(folder / "archive", folder / "cache"),
    )
    training = TrainingRun(params, ProcessedDataset(processed), paths, ranks)
    stop = stops.get(ranks.rank, StopRequest())
    if ranks.is_rank_zero:
        training.run(stop)
    else:
        training.run_worker_rank(stop)
    return stop.seen if isinstance(stop, RecordSeed) else "done"
