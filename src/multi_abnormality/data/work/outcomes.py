"""Handing out items to workers, and taking back what became of each, once."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import joblib

from multi_abnormality import memory
from multi_abnormality.data.work.pool import (
    OUT_OF_MEMORY,
    Arguments,
    F,
    NotBegun,
    Pool,
    ThisProcess,
    WorkerKilled,
)
from multi_abnormality.data.work.processes import Processes
from multi_abnormality.params_machine import Machine

R = TypeVar("R")

PATIENCE = 3.0  # s without any outcome before the pool looks whether somebody works at all


@dataclass(frozen=True)
class Lost:
    """An item that no worker could do: it kills them, or wants more memory than they have.

    Attributes:
        reason: for the user.
        kind: CRASHED or OUT_OF_MEMORY.
    """

    reason: str
    kind: str


def outcomes(
    function: Callable[..., R],
    items: Mapping[str, Arguments],
    machine: Machine,
    share: Collection[Path],
    memory_each: int,
    survive: bool = False,
) -> Iterator[tuple[str, R | Lost]]:
    """Yield each item's name with what `function(*items[name])` returned, as they are done.

    Every item comes once, whatever is killed meanwhile; its function may have run more than once,
    so that it must leave the same things behind as if it had run once. What it raises ends the
    work; closing the iterator stops all processes of this machine at once.

    Args:
        function: that can be pickled, as its arguments and results.
        items: arguments by name. Paths in them are absolute, if machines are many.
        machine: says who works.
        share: files and folders that every machine must see; the first is a folder to write to.
        memory_each: bytes that a worker needs, so that `workers: auto` does not start too many.
        survive: whether the work continues after an item that ends its process; `workers: 0` is
            one worker then.

    Raises:
        InputError: the workers cannot work, or went away. What was yielded until then holds.
    """
    pool = _open(machine, len(items), share, memory_each, survive)
    suspects = []
    try:
        for name, outcome in _hand_out(function, items, list(items), pool):
            if isinstance(outcome, WorkerKilled):
                suspects.append(name)
            else:
                yield name, outcome
        if suspects:
            pool.isolate()
        for name, outcome in _hand_out(function, items, suspects, pool):
            if isinstance(outcome, WorkerKilled):
                yield name, Lost(str(outcome), outcome.kind)
            else:
                yield name, outcome
    finally:
        pool.close()


def worker_count(workers: int | str, memory_each: int) -> int:
    """Of processes that take `memory_each` bytes; for "auto" no more than core and memory bear."""
    if workers != "auto":
        return int(workers)
    cores: int = joblib.cpu_count()
    return max(1, min(cores, memory.free() // memory_each))


def _open(
    machine: Machine, items: int, share: Collection[Path], memory_each: int, survive: bool
) -> Pool[Any]:
    if machine.dask:
        # distributed takes half a second to import, and most runs have one machine.
        from multi_abnormality.data.work.cluster import Cluster

        return Cluster(machine.dask, share)
    count = min(max(worker_count(machine.workers, memory_each), int(survive)), items)
    return Processes(count) if count else ThisProcess()


def _hand_out(
    function: Callable[..., R],
    items: Mapping[str, Arguments],
    names: Collection[str],
    pool: Pool[F],
) -> Iterator[tuple[str, R | Lost | WorkerKilled]]:
    waiting = deque(names)
    flying: dict[F, str] = {}
    done: SimpleQueue[F] = SimpleQueue()
    while waiting or flying:
        while waiting and len(flying) < pool.room():
            name = waiting.popleft()
            future = pool.submit(name, function, items[name])
            flying[future] = name
            future.add_done_callback(done.put)
        try:
            future = done.get(timeout=PATIENCE)
        except Empty:
            pool.look_after(list(flying.values()))
            continue
        name = flying.pop(future)
        outcome = _outcome(future, pool)
        if isinstance(outcome, NotBegun):
            waiting.append(name)
        else:
            yield name, outcome


def _outcome(future: F, pool: Pool[F]) -> Any:
    try:
        return pool.result(future)
    except (NotBegun, WorkerKilled) as ended:
        return ended
    except MemoryError:
        return Lost(f"needs more memory than there is; {pool.way_out}", OUT_OF_MEMORY)
