"""Pool of local worker processes, any of which may be killed at any time."""

import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Collection
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from typing import Any

from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import BrokenProcessPool

from multi_abnormality.utils import console
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.parallel.pool import (
    CRASHED,
    OUT_OF_MEMORY,
    Arguments,
    Function,
    TaskNotStarted,
    WorkerKilled,
)

# One core per worker: threads of libraries would oversubscribe the cores.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
_MAX_FAILED_STARTS = 3  # consecutive pools that end before any item is started


class ProcessPool:
    """Wrapper of loky's executor. If a process is killed, loky ends all, and all are restarted.

    A marker file exists for every running task, so a crash can be attributed. Each executor has its
    own folder of markers.
    """

    def __init__(self, workers: int) -> None:
        self.hint = f"lower machine.workers (now {workers}) or give the machine more memory"
        self._workers = workers
        self._markers = tempfile.TemporaryDirectory(prefix="running-tasks-")
        self._numbers = count()
        self._marker_of: dict[Future[Any], Path] = {}
        self._exit_codes = ""
        self._failed_starts = 0
        self._start()

    def max_in_flight(self) -> int:
        return 1 if self._workers == 1 else 2 * self._workers

    def submit(self, name: str, function: Function, arguments: Arguments) -> Future[Any]:
        try:
            return self._submit(name, function, arguments)
        except BrokenProcessPool as error:
            self._restart(error)
            return self._submit(name, function, arguments)

    def result(self, future: Future[Any]) -> Any:
        marker = self._marker_of.pop(future)
        try:
            result = future.result()
        except BrokenProcessPool as error:
            if marker.parent == self._folder:
                self._restart(error)
            if not marker.exists():
                raise TaskNotStarted from None
            raise WorkerKilled(
                f"its worker process was killed twice ({self._exit_codes}){self._likely_cause()}",
                OUT_OF_MEMORY if "SIGKILL" in self._exit_codes else CRASHED,
            ) from None
        self._failed_starts = 0
        return result

    def run_serially(self) -> None:
        self._workers = 1
        self._stop()
        self._start()

    def check_alive(self, names: Collection[str]) -> None:
        """No-op: the executor detects ended processes by itself."""

    def close(self) -> None:
        self._stop()
        self._markers.cleanup()

    def _start(self) -> None:
        self._folder = Path(self._markers.name) / str(next(self._numbers))
        self._folder.mkdir()
        self._executor = ProcessPoolExecutor(
            self._workers, initializer=_prepare, initargs=(os.getpid(),), env=_ONE_THREAD
        )

    def _stop(self) -> None:
        self._executor.shutdown(wait=True, kill_workers=True)

    def _submit(self, name: str, function: Function, arguments: Arguments) -> Future[Any]:
        marker = self._folder / str(next(self._numbers))
        future: Future[Any] = self._executor.submit(
            _run_with_marker, marker, name, function, arguments
        )
        self._marker_of[future] = marker
        return future

    def _restart(self, error: BrokenProcessPool) -> None:
        """Start a new executor once all processes of the broken one have ended."""
        self._stop()
        found = re.search(r"exit codes of the workers are \{(.*)\}", str(error))
        self._exit_codes = found.group(1) if found else "no exit code"
        names = sorted(marker.read_text(encoding="utf-8") for marker in self._folder.iterdir())
        self._failed_starts = 0 if names else self._failed_starts + 1
        if self._failed_starts > _MAX_FAILED_STARTS:
            raise InputError(
                f"worker processes end before they begin to work: {str(error).splitlines()[0]} "
                f"({self._exit_codes}); {self.hint}. Finished work is kept"
            )
        console.log.warning(
            "a worker process was killed (%s) while it read %s; continuing with new ones",
            self._exit_codes, " or ".join(names) or "nothing",
        )  # fmt: skip
        self._start()

    def _likely_cause(self) -> str:
        if "SIGKILL" in self._exit_codes:
            return f", most likely because memory ran out: {self.hint}"
        return ", most likely by a bug in a library that reads it: leave the file out"


def _run_with_marker(marker: Path, name: str, function: Function, arguments: Arguments) -> Any:
    marker.write_text(name, encoding="utf-8")
    try:
        return function(*arguments)
    finally:
        marker.unlink()


def _prepare(parent: int) -> None:
    """Initialize a worker: ignore Ctrl-C, which its parent handles, and exit with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
