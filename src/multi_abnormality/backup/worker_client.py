"""Client of the upload worker, used by the training process."""

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

from multi_abnormality.backup.upload_worker import RESULT_PREFIX, Job

IDLE_TIMEOUT = 120.0  # s without a job after which the process is stopped to free its memory
_TERMINATE_TIMEOUT = 2.0  # s for Git to remove its lock files
_KILL_TIMEOUT = 2.0  # s
_POLL_INTERVAL = 0.02  # s
_PIPE_BYTES = 1 << 20  # Linux's limit for unprivileged users


class UploadWorker:
    """Runs one job at a time in a process that is reused for the next job.

    Importing DVC takes two seconds of CPU time, too much for each save. The process has its own
    process group, so that Ctrl-C does not kill it.

    Args:
        root: root directory of the project.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None
        self._start_error = ""  # if the process could not be started
        self._is_low_priority = False  # permanent: only root may raise a priority again
        self._job_start = self._size = 0  # bytes of output before the job, and when last checked
        self._last_progress = 0.0

    def submit(self, job: Job) -> None:
        """Start a job (the previous one must be finished). Errors are returned by `result`."""
        if self._process is None or self._process.poll() is not None or (
            job.awaited and self._is_low_priority
        ):  # fmt: skip
            self.terminate()
            try:
                self._start()
            except OSError as error:
                self._start_error = f"its process can't be started: {error}"
                return
        self._is_low_priority = not job.awaited
        self._job_start = self._size = self._output_size()
        self._last_progress = time.monotonic()
        with suppress(BrokenPipeError):
            self._stdin.write(job.line())
            self._stdin.flush()

    @property
    def _started(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None  # started by `submit`
        return self._process

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._started.stdin is not None  # a pipe
        return self._started.stdin

    def _start(self) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed by `terminate`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "multi_abnormality.backup.upload_worker"],
            cwd=self._root, stdin=subprocess.PIPE, stdout=self._output, stderr=subprocess.STDOUT,
            env=os.environ | {"GDRIVE_NON_INTERACTIVE": "1"},  # no login in a browser
            start_new_session=True,
        )  # fmt: skip
        if sys.platform == "linux":  # so that `submit` never blocks on a long job
            with suppress(OSError):
                fcntl.fcntl(self._stdin, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def is_busy(self) -> bool:
        """Whether the job is still running."""
        return (
            self._process is not None
            and self._process.poll() is None
            and self._result_text() is None
        )

    def seconds_since_progress(self) -> float:
        """Seconds since the worker last reported progress."""
        if (size := self._output_size()) != self._size:
            self._size, self._last_progress = size, time.monotonic()
        return time.monotonic() - self._last_progress

    def wait(self, seconds: float) -> bool:
        """Wait for the job; return whether it finished within that time."""
        deadline = time.monotonic() + seconds
        while self.is_busy() and time.monotonic() < deadline:
            time.sleep(_POLL_INTERVAL)
        return not self.is_busy()

    def result(self) -> dict[str, Any]:
        """Return the result of a finished job; it has a key "error" if the job failed."""
        if self._process is None:
            return {"error": self._start_error}
        text = self._result_text()
        if text is not None:
            result: dict[str, Any] = json.loads(text)
            return result
        lines = self._job_output().decode(errors="replace").splitlines()
        last = f": {lines[-1]}" if lines else ""
        return {"error": f"its process exited with {self._started.returncode}{last}"}

    def stop_if_idle(self) -> None:
        """Stop a process that has been idle for `IDLE_TIMEOUT`. Cheap."""
        if self._process is not None and time.monotonic() - self._last_progress > IDLE_TIMEOUT:
            self.terminate()

    def terminate(self) -> None:
        """Terminate the process group and wait until it is gone.

        Gives up on processes that hang on a dead file system, such as a mounted Drive.
        """
        if self._process is None:
            return
        for number, timeout in (
            (signal.SIGTERM, _TERMINATE_TIMEOUT),
            (signal.SIGKILL, _KILL_TIMEOUT),
        ):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        with suppress(BrokenPipeError):
            self._stdin.close()
        self._output.close()
        self._process = None

    def _output_size(self) -> int:
        return os.fstat(self._output.fileno()).st_size

    def _job_output(self) -> bytes:
        """Return the output since the job started. The file's position belongs to the worker."""
        return os.pread(
            self._output.fileno(), self._output_size() - self._job_start, self._job_start
        )

    def _result_text(self) -> str | None:
        if self._output_size() == self._job_start:
            return None
        _, found, last = self._job_output().decode(errors="replace").rpartition(RESULT_PREFIX)
        text, ended, _ = last.partition("\n")  # a library may print more after it
        return text if found and ended else None
