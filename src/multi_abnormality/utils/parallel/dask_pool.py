"""Task pool on a Dask cluster, whose workers may join and leave at any time."""

import logging
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any
from uuid import uuid4

import cloudpickle
from distributed import Client, KilledWorker

from multi_abnormality.utils import console
from multi_abnormality.utils.atomic_io import atomic_write
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.parallel.dask_task import (
    EnvironmentCheck,
    code_hash,
    run_task,
    versions,
)
from multi_abnormality.utils.parallel.pool import OUT_OF_MEMORY, Pool, WorkerKilled

CONNECT_SECONDS = 10
# One running and one queued. With more, more tasks would be suspects when the worker is killed.
_TASKS_PER_THREAD = 2
_THREAD_COUNT_SECONDS = 2.0  # validity of a count of worker threads


class DaskPool(Pool):
    """Executor of a Dask scheduler, which reassigns the tasks of lost workers.

    A task that was on four lost workers fails with KilledWorker, whether it killed them or only ran
    beside the task that did. Tasks are sent as bytes, so the scheduler need not import this code.
    """

    hint = (
        "give the Dask workers more memory (`dask worker --memory-limit`) or fewer threads "
        "(`--nthreads 1`)"
    )

    def __init__(self, address: str, shared_paths: Collection[Path]) -> None:
        # They log every lost connection and every cancelled task with a traceback. Fatal errors are
        # raised anyway.
        for name in ("distributed.client", "tornado.application"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._address = address
        self._is_serial = False
        self._has_no_workers = False
        self._reported: set[str] = set()
        self._counted = (0, -_THREAD_COUNT_SECONDS)  # threads, time of the count
        self._client = self._connect()
        self._executor = self._client.get_executor(pure=False)
        folder, *_ = shared_paths
        self._marker = folder / f"shared-{uuid4().hex}"  # absent from a copy of the folder
        atomic_write(b"", self._marker)
        paths = tuple(str(path.absolute()) for path in (self._marker, *shared_paths))
        self._expected = EnvironmentCheck(paths, code_hash(), versions())

    def max_in_flight(self) -> int:
        return 1 if self._is_serial else max(1, _TASKS_PER_THREAD * self._threads())

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        call = cloudpickle.dumps((function, arguments))
        future: Future[Any] = self._executor.submit(run_task, self._expected, call)
        return future

    def result(self, future: Future[Any]) -> Any:
        try:
            answer = future.result()
        except KilledWorker as error:
            raise WorkerKilled(
                f"{2 * error.allowed_failures + 2} Dask workers were killed while they worked on "
                f"it, the last at {error.last_worker.address}, most likely because memory ran out: "
                f"{self.hint}",
                OUT_OF_MEMORY,
            ) from None
        except CancelledError:
            raise self._disconnected() from None
        except ImportError as error:
            raise InputError(
                f"machine.dask: a worker at {self._address} cannot import the task "
                f"({error}); install this project there, in the same version"
            ) from None
        for warning in set(answer.warnings) - self._reported:
            console.log.warning("%s", warning)
            self._reported.add(warning)
        return answer.result

    def run_serially(self) -> None:
        self._is_serial = True

    def check_alive(self, names: Iterable[str]) -> None:
        before, self._has_no_workers = self._has_no_workers, not self._threads()
        if self._has_no_workers and not before:
            console.log.warning(
                "no worker is connected to %s; waiting for one to run %s",
                self._address, " and ".join(sorted(names)),
            )  # fmt: skip
        # A connection lost while a result was fetched leaves the executor's future pending.
        if any(state.status == "cancelled" for state in self._client.futures.values()):
            raise self._disconnected()

    def close(self) -> None:
        self._marker.unlink(missing_ok=True)
        self._client.close(timeout=CONNECT_SECONDS)

    def _connect(self) -> Client:
        try:
            return Client(self._address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError, ImportError) as error:
            raise InputError(
                f"machine.dask: no Dask scheduler answers at {self._address} ({error}); start one "
                "with `dask scheduler`, or set it to null to work on this machine alone"
            ) from None

    def _threads(self) -> int:
        """Return the number of threads of all connected workers, which may change."""
        threads, counted_at = self._counted
        if time.monotonic() - counted_at > _THREAD_COUNT_SECONDS:
            if self._client.status != "running":  # a call would wait for the scheduler to return
                raise self._disconnected()
            try:
                threads = sum(self._client.nthreads().values())
            except (OSError, CancelledError, RuntimeError, ValueError):
                raise self._disconnected() from None
            self._counted = threads, time.monotonic()
        return threads

    def _disconnected(self) -> InputError:
        return InputError(
            f"machine.dask: the connection to the Dask scheduler at {self._address} is lost; "
            "finished work is kept. Restart the scheduler if it has stopped, then run again"
        )
