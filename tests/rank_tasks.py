"""Work for several processes that train together."""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed

from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.errors import InputError
from multi_abnormality.params import Params
from multi_abnormality.training.aside import Aside
from multi_abnormality.training.fit import Places, Training
from multi_abnormality.training.place import Place
from multi_abnormality.training.ranks import Ranks
from multi_abnormality.training.stopping import EXIT_CODE, Stopped, StopRequest
from stops import StopAtLook

# From a process that has imported all this, and has no thread: forked from in no time.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["multi_abnormality.training.fit"])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def together(
    size: int,
    work: Callable[..., object],
    *args: object,
    before: Callable[[Place], None] | None = None,
) -> list[object]:
    """What `work(ranks, *args)` returns in each process, or says of a fault, or its exit code."""
    port, results = free_port(), _context.SimpleQueue()
    processes = [
        _context.Process(target=_run, args=(Place(rank, size, rank, size, "127.0.0.1", port, True),
                                            results, work, args, before))
        for rank in range(size)
    ]  # fmt: skip
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    returned = {}
    while not results.empty():
        returned |= dict([results.get()])
    return [returned.get(rank, process.exitcode) for rank, process in enumerate(processes)]


def _run(
    place: Place,
    results: multiprocessing.SimpleQueue,
    work: Callable[..., object],
    args: tuple,
    before: Callable[[Place], None] | None,
) -> None:
    if before:
        before(place)
    try:
        with Ranks(place) as ranks:
            outcome = work(ranks, *args)
    except Stopped:
        sys.exit(EXIT_CODE)
    except InputError as error:
        outcome = str(error)
    results.put((place.rank, outcome))


def use_all(ranks: Ranks) -> list[object]:
    """Everything that processes do together, once."""
    weight, statistic = torch.full((2, 3), float(ranks.rank)), torch.tensor([3.0 * ranks.rank])
    ranks.average([weight.T, statistic])
    volumes = torch.tensor(ranks.volumes(7))
    return [
        ranks.share(f"from {ranks.rank}"),
        ranks.gather_number(ranks.rank / 3),
        ranks.any_of("it was asked to" if ranks.rank == 1 else None),
        ranks.any_of(None),
        [weight.unique().tolist(), statistic.tolist()],
        ranks.gather_volumes(volumes).tolist(),
    ]


def lose(ranks: Ranks, lost: int) -> None:
    """One is killed, and the others wait for it."""
    ranks.gather_number(0.0)  # all are there
    if ranks.rank == lost:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.gather_number(0.0)


def lose_first_as_they_meet(place: Place) -> None:
    """Process 0 is killed where all are connected and none is in the group."""
    if place.rank == 0:
        distributed.init_process_group = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)


class KillAtLook(StopAtLook):
    """Kills this process at the n-th look."""

    @property
    def reason(self) -> str | None:
        if super().reason:
            os.kill(os.getpid(), signal.SIGKILL)
        return None


class NoteSeed(StopRequest):
    """Notes at each look what draws of this step began with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    @property
    def reason(self) -> str | None:
        self.seen.append(torch.initial_seed())
        return None


def train(
    ranks: Ranks, params: Params, processed: Path, folder: Path, stops: dict[int, StopRequest]
) -> str | list[int]:
    """Train, with the stops of some of the processes; what a NoteSeed has noted."""
    places = Places(
        folder / "checkpoints",
        folder / "logs",
        folder / "history.csv",
        Aside(folder / "aside", folder / "cache"),
    )
    training = Training(params, ProcessedSet(processed), places, ranks)
    stop = stops.get(ranks.rank, StopRequest())
    if ranks.leads:
        training.run(stop)
    else:
        training.follow(stop)
    return stop.seen if isinstance(stop, NoteSeed) else "done"
