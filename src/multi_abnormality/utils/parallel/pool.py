"""Base class of task pools, and the pool of local processes, any of which may be killed."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import BrokenProcessPool

from multi_abnormality.utils import console
from multi_abnormality.utils.errors import InputError

# Kinds of failure, as counts and tables name them.
CRASHED = "crashed its reader"
OUT_OF_MEMORY = "out of memory"
# One core per worker: threads of libraries would oversubscribe the cores.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
_MAX_STARTS = 3  # of processes that end before they run anything


class WorkerKilled(Exception):
    """A worker was killed while it ran a task, or another task of the same pool.

    Args:
        message: message for the user.
        kind: CRASHED or OUT_OF_MEMORY.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class Pool:
    """Runs tasks one at a time in the calling process; subclasses run them in workers.

    Attributes:
        hint: what a user can do if memory is short.
    """

    hint = "give the machine more memory"

    def max_in_flight(self) -> int:
        """Return how many tasks to submit at a time to keep all workers busy."""
        return 1

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def result(self, future: Future[Any]) -> Any:
        """Return the result of a finished task, or raise its exception.

        Raises:
            WorkerKilled: a worker was killed.
            InputError: no worker is left.
        """
        return future.result()

    def run_serially(self) -> None:
        """Run one task at a time from now on."""

    def check_alive(self, names: Iterable[str]) -> None:
        """Log a warning if no worker is connected to run these tasks."""

    def close(self) -> None:
        """Stop all workers at once."""


class ProcessPool(Pool):
    """Wrapper of loky's executor, which ends all processes and tasks if a process is killed."""

    def __init__(self, workers: int) -> None:
        self.hint = f"lower machine.workers (now {workers}) or give the machine more memory"
        self._workers = workers
        self._start()

    def max_in_flight(self) -> int:
        return 1 if self._workers == 1 else 2 * self._workers

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        try:
            future: Future[Any] = self._executor.submit(function, *arguments)
        except BrokenProcessPool as error:
            console.log.warning(
                "a worker process was killed (%s); continuing with new ones", _exit_codes(error)
            )
            self.close()
            self._start()
            future = self._executor.submit(function, *arguments)
        return future

    def result(self, future: Future[Any]) -> Any:
        try:
            return future.result()
        except BrokenProcessPool as error:
            codes = _exit_codes(error)
            is_memory = "SIGKILL" in codes
            cause = (
                f"because memory ran out: {self.hint}"
                if is_memory
                else "by a bug in a library that reads it: leave the file out"
            )
            raise WorkerKilled(
                f"its worker process was killed twice ({codes}), most likely {cause}",
                OUT_OF_MEMORY if is_memory else CRASHED,
            ) from None

    def run_serially(self) -> None:
        self.close()
        self._workers = 1
        self._start()

    def close(self) -> None:
        self._executor.shutdown(wait=True, kill_workers=True)

    def _start(self) -> None:
        """Start the processes, and check that one of them runs a task.

        Raises:
            InputError: they end before that.
        """
        for _ in range(_MAX_STARTS):
            self._executor = ProcessPoolExecutor(
                self._workers, initializer=_prepare, initargs=(os.getpid(),), env=_ONE_THREAD
            )
            try:
                self._executor.submit(os.getpid).result()
            except BrokenProcessPool as error:
                self.close()
                reason = f"{str(error).splitlines()[0]} ({_exit_codes(error)})"
            else:
                return
        raise InputError(
            f"worker processes end before they begin to work: {reason}; {self.hint}. Finished work "
            "is kept"
        )


def _exit_codes(error: BrokenProcessPool) -> str:
    found = re.search(r"exit codes of the workers are \{(.*)\}", str(error))
    return found[1] if found else "no exit code"


def _prepare(parent: int) -> None:
    """Initialize a worker: ignore Ctrl-C, which its parent handles, and exit with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
