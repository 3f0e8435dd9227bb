"""Worker processes on this machine, one of which may be killed at any time."""

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

from multi_abnormality import console
from multi_abnormality.data.work.pool import (
    CRASHED,
    OUT_OF_MEMORY,
    Arguments,
    Function,
    NotBegun,
    WorkerKilled,
)
from multi_abnormality.errors import InputError

# A worker is a core: threads of libraries in it would only get in each other's way.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
_VAIN_STARTS = 3  # pools in a row that end before any item is begun


class Processes:
    """loky's processes. When one is killed loky ends the others too, so all are started anew.

    Each item under way has a note, a file, until it is done: so it is known afterwards which may
    have been the cause. A pool has a folder of notes of its own.
    """

    def __init__(self, workers: int) -> None:
        self.way_out = f"lower machine.workers (now {workers}) or give the machine more memory"
        self._workers = workers
        self._notes = tempfile.TemporaryDirectory(prefix="under-way-")
        self._numbers = count()
        self._note_of: dict[Future[Any], Path] = {}
        self._how = ""
        self._vain = 0
        self._start()

    def room(self) -> int:
        return 1 if self._workers == 1 else 2 * self._workers

    def submit(self, name: str, function: Function, arguments: Arguments) -> Future[Any]:
        try:
            return self._submit(name, function, arguments)
        except BrokenProcessPool as error:
            self._replace(error)
            return self._submit(name, function, arguments)

    def result(self, future: Future[Any]) -> Any:
        note = self._note_of.pop(future)
        try:
            result = future.result()
        except BrokenProcessPool as error:
            if note.parent == self._folder:
                self._replace(error)
            if not note.exists():
                raise NotBegun from None
            raise WorkerKilled(
                f"its worker process was killed twice ({self._how}){self._guess()}",
                OUT_OF_MEMORY if "SIGKILL" in self._how else CRASHED,
            ) from None
        self._vain = 0
        return result

    def isolate(self) -> None:
        self._workers = 1
        self._stop()
        self._start()

    def look_after(self, names: Collection[str]) -> None:
        """The system tells at once when a process ends."""

    def close(self) -> None:
        self._stop()
        self._notes.cleanup()

    def _start(self) -> None:
        self._folder = Path(self._notes.name) / str(next(self._numbers))
        self._folder.mkdir()
        self._executor = ProcessPoolExecutor(
            self._workers, initializer=_prepare, initargs=(os.getpid(),), env=_ONE_THREAD
        )

    def _stop(self) -> None:
        self._executor.shutdown(wait=True, kill_workers=True)

    def _submit(self, name: str, function: Function, arguments: Arguments) -> Future[Any]:
        note = self._folder / str(next(self._numbers))
        future: Future[Any] = self._executor.submit(_noted, note, name, function, arguments)
        self._note_of[future] = note
        return future

    def _replace(self, error: BrokenProcessPool) -> None:
        """Start anew, once all of the broken pool's processes have ended."""
        self._stop()
        found = re.search(r"exit codes of the workers are \{(.*)\}", str(error))
        self._how = found.group(1) if found else "no exit code"
        names = sorted(note.read_text(encoding="utf-8") for note in self._folder.iterdir())
        self._vain = 0 if names else self._vain + 1
        if self._vain > _VAIN_STARTS:
            raise InputError(
                f"worker processes end before they begin to work: {str(error).splitlines()[0]} "
                f"({self._how}); {self.way_out}. What is done is kept"
            )
        console.log.warning(
            "a worker process was killed (%s) while it read %s; continuing with new ones",
            self._how, " or ".join(names) or "nothing",
        )  # fmt: skip
        self._start()

    def _guess(self) -> str:
        if "SIGKILL" in self._how:
            return f", most likely for want of memory: {self.way_out}"
        return ", most likely by a fault in a library that reads it: leave the file out"


def _noted(note: Path, name: str, function: Function, arguments: Arguments) -> Any:
    note.write_text(name, encoding="utf-8")
    try:
        return function(*arguments)
    finally:
        note.unlink()


def _prepare(parent: int) -> None:
    """Have a worker leave Ctrl-C to its parent, and end as soon as that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
