"""Run a function over named items in a pool of workers."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

import joblib

from multi_abnormality.utils import system_memory
from multi_abnormality.utils.parallel.pool import (
    OUT_OF_MEMORY,
    Arguments,
    F,
    Pool,
    SerialPool,
    TaskNotStarted,
    WorkerKilled,
)
from multi_abnormality.utils.parallel.process_pool import ProcessPool

R = TypeVar("R")

IDLE_CHECK_SECONDS = 3.0  # without a result before the pool checks whether it has workers


class Machine(Protocol):
    """Where tasks run: `workers` processes of this machine, or a Dask scheduler's workers."""

    @property
    def workers(self) -> int | str: ...

    @property
    def dask(self) -> str | None: ...


@dataclass(frozen=True)
class TaskFailed:
    """Result of an item that crashes its workers or needs more memory than they have.

    Attributes:
        reason: message for the user.
        kind: CRASHED or OUT_OF_MEMORY.
    """

    reason: str
    kind: str


def run_all(
    function: Callable[..., R],
    items: Mapping[str, Arguments],
    machine: Machine,
    shared_paths: Collection[Path],
    memory_each: int,
    survive: bool = False,
) -> Iterator[tuple[str, R | TaskFailed]]:
    """Yield (name, result of `function(*items[name])`) for each item, as they finish.

    Every item is yielded exactly once, even if workers are killed. Its function may run more than
    once, so it must be idempotent. An exception in the function stops the run; closing the iterator
    stops all local processes at once.

    Args:
        function: function that can be pickled, with its arguments and results.
        items: arguments by name; with several machines, paths must be absolute.
        machine: number of local workers, or address of the Dask scheduler.
        shared_paths: files and folders that every machine must see; the first must be a writable
            folder.
        memory_each: bytes that a worker needs, which limits `workers: auto`.
        survive: whether to continue after an item that ends its process; `workers: 0` then
            becomes one worker.

    Raises:
        InputError: the workers cannot start or are lost. Results yielded before are valid.
    """
    pool = _open(machine, len(items), shared_paths, memory_each, survive)
    suspects = []
    try:
        for name, outcome in _dispatch(function, items, list(items), pool):
            if isinstance(outcome, WorkerKilled):
                suspects.append(name)
            else:
                yield name, outcome
        if suspects:
            pool.run_serially()
        for name, outcome in _dispatch(function, items, suspects, pool):
            if isinstance(outcome, WorkerKilled):
                yield name, TaskFailed(str(outcome), outcome.kind)
            else:
                yield name, outcome
    finally:
        pool.close()


def worker_count(workers: int | str, memory_each: int) -> int:
    """Return the number of worker processes; "auto" is limited by cores and free memory."""
    if workers != "auto":
        return int(workers)
    cores: int = joblib.cpu_count()
    return max(1, min(cores, system_memory.available_bytes() // memory_each))


def _open(
    machine: Machine, items: int, shared_paths: Collection[Path], memory_each: int, survive: bool
) -> Pool[Any]:
    if machine.dask:
        # distributed takes half a second to import, and most runs have one machine.
        from multi_abnormality.utils.parallel.dask_pool import DaskPool

        return DaskPool(machine.dask, shared_paths)
    count = min(max(worker_count(machine.workers, memory_each), int(survive)), items)
    return ProcessPool(count) if count else SerialPool()


def _dispatch(
    function: Callable[..., R],
    items: Mapping[str, Arguments],
    names: Collection[str],
    pool: Pool[F],
) -> Iterator[tuple[str, R | TaskFailed | WorkerKilled]]:
    waiting = deque(names)
    in_flight: dict[F, str] = {}
    done: SimpleQueue[F] = SimpleQueue()
    while waiting or in_flight:
        while waiting and len(in_flight) < pool.max_in_flight():
            name = waiting.popleft()
            future = pool.submit(name, function, items[name])
            in_flight[future] = name
            future.add_done_callback(done.put)
        try:
            future = done.get(timeout=IDLE_CHECK_SECONDS)
        except Empty:
            pool.check_alive(list(in_flight.values()))
            continue
        name = in_flight.pop(future)
        outcome = _result_or_failure(future, pool)
        if isinstance(outcome, TaskNotStarted):
            waiting.append(name)
        else:
            yield name, outcome


def _result_or_failure(future: F, pool: Pool[F]) -> Any:
    try:
        return pool.result(future)
    except (TaskNotStarted, WorkerKilled) as error:
        return error
    except MemoryError:
        return TaskFailed(f"needs more memory than there is; {pool.hint}", OUT_OF_MEMORY)
