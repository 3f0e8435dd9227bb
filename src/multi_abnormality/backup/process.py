"""The worker as the training sees it: given jobs, looked at now and then, and ended."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from multi_abnormality.backup.worker import ANSWER, Job

IDLE = 120.0  # s without a job after which its memory is worth more than the time to start it anew
_TERMINATION = 2.0  # s that Git gets to take its lock files away
_DEATH = 2.0  # s that the system gets to end a process
_LOOK = 0.02  # s
_PIPE = 1 << 20  # bytes, as much as a user may have


class Worker:
    """Does one job at a time, in a process that stays for the next one.

    To start DVC takes a processor two seconds, which a training would notice after each save. The
    process has a group of its own, so that Ctrl-C does not end it.

    Args:
        root: the project's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None
        self._refusal = ""  # of the system to start it
        self._steps_back = False  # for good: only root may raise a priority again
        self._asked = self._size = 0  # bytes of output before the job, and by now
        self._moved = 0.0

    def give(self, job: Job) -> None:
        """Begin a job; the one before it has ended. What fails, `said` tells."""
        if self._process is None or self._process.poll() is not None or (
            job.awaited and self._steps_back
        ):  # fmt: skip
            self.end()
            try:
                self._start()
            except OSError as error:
                self._refusal = f"its process can't be started: {error}"
                return
        self._steps_back = not job.awaited
        self._asked = self._size = self._written()
        self._moved = time.monotonic()
        with suppress(BrokenPipeError):
            self._stdin.write(job.line())
            self._stdin.flush()

    @property
    def _started(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None  # `give` comes first
        return self._process

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._started.stdin is not None  # a pipe
        return self._started.stdin

    def _start(self) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed when it ended
        self._process = subprocess.Popen(
            [sys.executable, "-m", "multi_abnormality.backup.worker"],
            cwd=self._root, stdin=subprocess.PIPE, stdout=self._output, stderr=subprocess.STDOUT,
            env=os.environ | {"GDRIVE_NON_INTERACTIVE": "1"},  # or it waits for a browser's login
            start_new_session=True,
        )  # fmt: skip
        if sys.platform == "linux":  # a job names many objects, and `give` waits for no import
            with suppress(OSError):
                fcntl.fcntl(self._stdin, fcntl.F_SETPIPE_SZ, _PIPE)

    def is_busy(self) -> bool:
        """Whether the job has neither been answered nor died with the process."""
        return self._process is not None and self._process.poll() is None and self._answer() is None

    def still_for(self) -> float:
        """Seconds since it last said that something moved."""
        if (size := self._written()) != self._size:
            self._size, self._moved = size, time.monotonic()
        return time.monotonic() - self._moved

    def wait(self, seconds: float) -> bool:
        """Whether the job ended within that time."""
        deadline = time.monotonic() + seconds
        while self.is_busy() and time.monotonic() < deadline:
            time.sleep(_LOOK)
        return not self.is_busy()

    def said(self) -> dict[str, Any]:
        """The job's result, with a key "error" where it has none. It has ended."""
        if self._process is None:
            return {"error": self._refusal}
        answer = self._answer()
        if answer is not None:
            said: dict[str, Any] = json.loads(answer)
            return said
        lines = self._printed().decode(errors="replace").splitlines()
        last = f": {lines[-1]}" if lines else ""
        return {"error": f"its process ended with {self._started.returncode}{last}"}

    def rest(self) -> None:
        """End an idle process if it has had nothing to do for long. Cheap."""
        if self._process is not None and time.monotonic() - self._moved > IDLE:
            self.end()

    def end(self) -> None:
        """End the process and all that it started, and wait until they are gone.

        But not for one that a dead file system, such as a mounted Drive, holds in the kernel: it
        goes when that lets go of it.
        """
        if self._process is None:
            return
        for number, patience in ((signal.SIGTERM, _TERMINATION), (signal.SIGKILL, _DEATH)):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        with suppress(BrokenPipeError):
            self._stdin.close()
        self._output.close()
        self._process = None

    def _written(self) -> int:
        return os.fstat(self._output.fileno()).st_size

    def _printed(self) -> bytes:
        """Since the job was given; the file's position is the other process's."""
        return os.pread(self._output.fileno(), self._written() - self._asked, self._asked)

    def _answer(self) -> str | None:
        if self._written() == self._asked:
            return None
        _, found, text = self._printed().decode(errors="replace").rpartition(ANSWER)
        answer, ended, _ = text.partition("\n")  # a library may have had a last word after it
        return answer if found and ended else None
