"""Child process that uploads one backup, as seen by training."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any

from multi_abnormality.backup.push import Job

_TERMINATE_TIMEOUT = 2.0  # s for Git to remove its lock files
_KILL_TIMEOUT = 2.0  # s
_POLL_INTERVAL = 0.02  # s
_MAX_OUTPUT = 100_000  # bytes to read
_ENVIRONMENT = {
    "GDRIVE_NON_INTERACTIVE": "1",  # no login in a browser
    "DVC_IGNORE_ISATTY": "1",  # progress bars in a file, which shows that it makes progress
}


class PushProcess:
    """Runs `multi_abnormality.backup.push` in a process group of its own, which Ctrl-C spares.

    Raises:
        OSError: the process can't be started.
    """

    def __init__(self, job: Job) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed by `terminate`
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        with tempfile.TemporaryFile() as stdin:
            stdin.write(job.json())
            stdin.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "multi_abnormality.backup.push"],
                cwd=job.root, stdin=stdin, stdout=self._output, stderr=self._errors,
                env=os.environ | _ENVIRONMENT, start_new_session=True,
            )  # fmt: skip
        self._size, self._last_progress = 0, time.monotonic()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def seconds_since_progress(self) -> float:
        """Seconds since the process last wrote anything, such as a progress bar."""
        if (size := os.fstat(self._errors.fileno()).st_size) != self._size:
            self._size, self._last_progress = size, time.monotonic()
        return time.monotonic() - self._last_progress

    def wait(self, seconds: float) -> bool:
        """Wait for the process; return whether it finished within that time."""
        deadline = time.monotonic() + seconds
        while self.is_running() and time.monotonic() < deadline:
            time.sleep(_POLL_INTERVAL)
        return not self.is_running()

    def result(self) -> dict[str, Any]:
        """Return the result of a finished process; it has a key "error" if the upload failed."""
        if text := os.pread(self._output.fileno(), _MAX_OUTPUT, 0):
            with suppress(ValueError):  # cut off by a full disk
                result: dict[str, Any] = json.loads(text)
                return result
        size = os.fstat(self._errors.fileno()).st_size
        errors = os.pread(self._errors.fileno(), _MAX_OUTPUT, max(0, size - _MAX_OUTPUT))
        lines = [line for line in errors.decode(errors="replace").splitlines() if line.strip()]
        last = f": {''.join(filter(str.isprintable, lines[-1])).strip()}" if lines else ""
        return {"error": f"its process exited with {self._process.returncode}{last}"}

    def terminate(self) -> None:
        """Terminate the process group and wait until it is gone.

        Gives up on processes that hang on a dead file system, such as a mounted Drive.
        """
        for number, timeout in (
            (signal.SIGTERM, _TERMINATE_TIMEOUT),
            (signal.SIGKILL, _KILL_TIMEOUT),
        ):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self._output.close()
        self._errors.close()
