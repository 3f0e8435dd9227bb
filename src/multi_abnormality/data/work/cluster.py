"""The workers of a Dask cluster, which come and go."""

import logging
import time
from collections.abc import Collection
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any
from uuid import uuid4

import cloudpickle
from distributed import Client, Future, KilledWorker

from multi_abnormality import console
from multi_abnormality.data.work.pool import OUT_OF_MEMORY, Arguments, Function, WorkerKilled
from multi_abnormality.data.work.remote import Answer, Expected, attempt, code_hash, versions
from multi_abnormality.errors import InputError
from multi_abnormality.files import write_durably

CONNECT_SECONDS = 10
# One under way and one to follow. More would be suspected with it when the worker is killed.
_PER_THREAD = 2
_COUNT_SECONDS = 2.0  # how long a count of workers is good for


class Cluster:
    """A client of a Dask scheduler, which hands tasks of workers that it lost to others.

    A task under way on four lost workers comes back as KilledWorker, be it their killer or only
    its neighbour. Tasks travel as bytes: so the scheduler need not understand them.
    """

    way_out = (
        "give the Dask workers more memory (`dask worker --memory-limit`) or fewer threads "
        "(`--nthreads 1`)"
    )

    def __init__(self, address: str, share: Collection[Path]) -> None:
        # It logs every lost connection with a traceback. What ends the work is raised all the same.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        self._address = address
        self._alone = False
        self._deserted = False
        self._told: set[str] = set()
        self._counted = (0, -_COUNT_SECONDS)  # threads, at
        self._client = self._connect()
        folder, *_ = share
        self._sign = folder / f"shared-{uuid4().hex}"  # a copy of the folder does not have it
        write_durably(b"", self._sign)
        paths = tuple(str(path.absolute()) for path in (self._sign, *share))
        self._expected = Expected(paths, code_hash(), versions())

    def room(self) -> int:
        return 1 if self._alone else max(1, _PER_THREAD * self._threads())

    def submit(self, name: str, function: Function, arguments: Arguments) -> "Future[Answer]":
        call = cloudpickle.dumps((function, arguments))
        key = f"{name}-{uuid4().hex}"
        return self._client.submit(attempt, self._expected, call, key=key, pure=False)

    def result(self, future: "Future[Answer]") -> Any:
        try:
            answer = self._wait(future)
        except KilledWorker as error:
            raise WorkerKilled(
                f"{2 * error.allowed_failures + 2} Dask workers were killed while they worked on "
                f"it, the last at {error.last_worker.address}, most likely for want of memory: "
                f"{self.way_out}",
                OUT_OF_MEMORY,
            ) from None
        except CancelledError:
            raise self._disconnected() from None
        except ImportError as error:
            raise InputError(
                f"machine.dask: a worker at {self._address} cannot load what it is to do "
                f"({error}); install this project there, in the same version"
            ) from None
        for remark in set(answer.remarks) - self._told:
            console.log.warning("%s", remark)
            self._told.add(remark)
        return answer.result

    def isolate(self) -> None:
        self._alone = True

    def look_after(self, names: Collection[str]) -> None:
        before, self._deserted = self._deserted, not self._threads()
        if self._deserted and not before:
            console.log.warning(
                "no worker is at %s; waiting for one, with %s given out",
                self._address, " and ".join(sorted(names)),
            )  # fmt: skip

    def close(self) -> None:
        self._sign.unlink(missing_ok=True)
        self._client.close(timeout=CONNECT_SECONDS)

    def _connect(self) -> Client:
        try:
            return Client(self._address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError, ImportError) as error:
            raise InputError(
                f"machine.dask: no Dask scheduler answers at {self._address} ({error}); start one "
                "with `dask scheduler`, or set it to null to work on this machine alone"
            ) from None

    def _wait(self, future: "Future[Answer]") -> Answer:
        """For a result that was there a moment ago. It is made anew if its worker has gone."""
        while True:
            try:
                return future.result(timeout=_COUNT_SECONDS)
            except OSError as error:  # a TimeoutError is one
                if future.status == "error":  # the function's own
                    raise
                if not isinstance(error, TimeoutError):
                    raise self._disconnected() from None
                self.look_after([str(future.key).rpartition("-")[0]])

    def _threads(self) -> int:
        """Of all workers that are there now: some come late."""
        threads, at = self._counted
        if time.monotonic() - at > _COUNT_SECONDS:
            if self._client.status != "running":  # a call would wait for a scheduler to come back
                raise self._disconnected()
            try:
                threads = sum(self._client.nthreads().values())
            except (OSError, CancelledError, RuntimeError, ValueError):
                raise self._disconnected() from None
            self._counted = threads, time.monotonic()
        return threads

    def _disconnected(self) -> InputError:
        return InputError(
            f"machine.dask: the connection to the Dask scheduler at {self._address} is lost; what "
            "is done is kept. Start the scheduler again if it has ended, then run again"
        )
