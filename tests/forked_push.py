"""Uploads in forks of a process that has imported DVC, which saves most of their time.

They are still processes of their own, with their own session, folder, environment and output.
"""

import io
import json
import multiprocessing
import os
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import IO

from multi_abnormality.backup import push

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["multi_abnormality.backup.push", "dvc.repo", "dvc.data_cloud"])


class ForkedPush:
    """A process as `subprocess.Popen` starts it for `python -m multi_abnormality.backup.push`."""

    def __init__(
        self,
        command: list[str],
        cwd: str,
        stdin: IO[bytes],
        stdout: IO[bytes],
        stderr: IO[bytes],
        env: dict[str, str],
        start_new_session: bool,
    ) -> None:
        assert command[-2:] == ["-m", push.__name__]
        assert start_new_session
        ours, theirs = _context.Pipe()
        opened = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (stdout, stderr)]
        job = stdin.read()
        self._process = _context.Process(target=_push, args=(theirs, cwd, env, job, opened))
        self._process.start()
        theirs.close()
        ours.recv()  # it has opened its files, and leads a session
        ours.close()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> None:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("push", timeout)


def _push(ready: Connection, cwd: str, env: dict[str, str], job: bytes, opened: list[str]) -> None:
    os.setsid()
    for number, name in enumerate(opened, start=1):
        descriptor = os.open(name, os.O_RDWR)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    ready.send(None)
    ready.close()
    values = json.loads(job) | {"parent": os.getppid()}
    sys.stdin = io.StringIO(json.dumps(values))
    push.main()
