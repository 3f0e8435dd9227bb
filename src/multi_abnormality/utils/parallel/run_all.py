"""Run a function over named items in a pool of workers."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent import futures
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import joblib

from multi_abnormality.utils import console, system_memory
from multi_abnormality.utils.errors import first_few
from multi_abnormality.utils.parallel.pool import OUT_OF_MEMORY, Pool, ProcessPool, WorkerKilled

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
    """Result of an item that crashes its workers or needs more memory than they have."""

    reason: str  # message for the user
    kind: str  # CRASHED or OUT_OF_MEMORY


def run_all(
    function: Callable[..., R],
    items: Mapping[str, tuple[Any, ...]],
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
    with closing(_open(machine, len(items), shared_paths, memory_each, survive)) as pool:
        suspects = {}
        for name, outcome in _dispatch(function, items, pool):
            if isinstance(outcome, WorkerKilled):
                suspects[name] = items[name]
            else:
                yield name, outcome
        if not suspects:
            return
        console.log.warning(
            "a worker was killed while it read %s; retrying one at a time",
            first_few(list(suspects), most=10),
        )
        pool.run_serially()
        for name, outcome in _dispatch(function, suspects, pool):
            if isinstance(outcome, WorkerKilled):
                yield name, TaskFailed(str(outcome), outcome.kind)
            else:
                yield name, outcome


def worker_count(workers: int | str, memory_each: int) -> int:
    """Return the number of worker processes; "auto" is limited by cores and free memory."""
    if workers != "auto":
        return int(workers)
    cores: int = joblib.cpu_count()
    return max(1, min(cores, system_memory.available_bytes() // memory_each))


def _open(
    machine: Machine, items: int, shared_paths: Collection[Path], memory_each: int, survive: bool
) -> Pool:
    if machine.dask:
        # distributed takes half a second to import, and most runs have one machine.
        from multi_abnormality.utils.parallel.dask_pool import DaskPool

        return DaskPool(machine.dask, shared_paths)
    count = min(max(worker_count(machine.workers, memory_each), int(survive)), items)
    return ProcessPool(count) if count else Pool()


def _dispatch(
    function: Callable[..., R], items: Mapping[str, tuple[Any, ...]], pool: Pool
) -> Iterator[tuple[str, R | TaskFailed | WorkerKilled]]:
    waiting = deque(items)
    in_flight: dict[futures.Future[R], str] = {}
    while waiting or in_flight:
        while waiting and len(in_flight) < pool.max_in_flight():
            name = waiting.popleft()
            in_flight[pool.submit(function, *items[name])] = name
        done, _ = futures.wait(in_flight, IDLE_CHECK_SECONDS, futures.FIRST_COMPLETED)
        if done:
            future = done.pop()
            yield in_flight.pop(future), _result_or_failure(future, pool)
        else:
            pool.check_alive(in_flight.values())


def _result_or_failure(future: futures.Future[R], pool: Pool) -> Any:
    try:
        return pool.result(future)
    except WorkerKilled as error:
        return error
    except MemoryError:
        return TaskFailed(f"needs more memory than there is; {pool.hint}", OUT_OF_MEMORY)
