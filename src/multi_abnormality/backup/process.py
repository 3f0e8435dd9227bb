"""A worker as the training sees it: started, looked at now and then, and ended."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any

from multi_abnormality.backup.worker import Job

_TERMINATION = 2.0  # s that Git gets to take its lock files away


class Worker:
    """A running job, in a process group of its own, so that Ctrl-C does not end it.

    Args:
        job: what to do.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed when it ended
        self._process = subprocess.Popen(
            [sys.executable, "-m", "multi_abnormality.backup.worker"],
            cwd=job.root, stdin=subprocess.PIPE, stdout=self._output, stderr=subprocess.STDOUT,
            env=os.environ | {"GDRIVE_NON_INTERACTIVE": "1"},  # or it waits for a browser's login
            start_new_session=True,
        )  # fmt: skip
        with suppress(BrokenPipeError):
            self._process.stdin.write(job.line())
            self._process.stdin.flush()
        self._size, self._moved = 0, time.monotonic()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def still_for(self) -> float:
        """Seconds since it last said that something moved."""
        size = os.fstat(self._output.fileno()).st_size
        if size != self._size:
            self._size, self._moved = size, time.monotonic()
        return time.monotonic() - self._moved

    def wait(self, seconds: float) -> bool:
        """Whether it ended within that time."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(seconds, 0.0))
        return not self.is_running()

    def said(self) -> dict[str, Any]:
        """Its result, with a key "error" where it has none. It has ended."""
        self._close()
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").splitlines()
        self._output.close()
        try:
            return json.loads(lines[-1])
        except (IndexError, ValueError):
            last = f": {lines[-1]}" if lines else ""
            return {"error": f"its process ended with {self._process.returncode}{last}"}

    def kill(self) -> None:
        """End it and all that it started, and wait until they are gone."""
        for number, patience in ((signal.SIGTERM, _TERMINATION), (signal.SIGKILL, None)):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        self._close()
        self._output.close()

    def _close(self) -> None:
        with suppress(BrokenPipeError):
            self._process.stdin.close()
