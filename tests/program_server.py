"""Runs Python programs in forks of a process that has imported DVC, which saves most of their time.

They are still processes of their own, with their own folder, environment and exit code.
"""

import gc
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path

PRELOADED = (
    "dvc.cli.parser", "dvc.data_cloud", "dvc.repo.artifacts", "dvc.repo.brancher",
    "dvc.repo.datasets", "dvc.repo.experiments", "dvc.repo.graph", "dvc.repo.index",
    "dvc.repo.open_repo", "dvc.repo.params.diff", "dvc.repo.plots", "dvc.repo.stage",
    "dvc_data.hashfile.db.local", "dvc_data.index.checkout", "dvc_data.index.collect",
    "dvc_data.index.fetch", "multi_abnormality.cli", "multi_abnormality.tools.resume", "networkx",
    "pandas", "pygit2", "ruamel.yaml",
)  # fmt: skip
# Variables that may differ: no imported module reads them. huggingface_hub would, so the programs
# that use it import it themselves.
CHANGES_NO_IMPORT = {
    "COLUMNS", "HF_ENDPOINT", "HF_HOME", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "HF_TOKEN",
    "NO_PROXY", "PATH", "PYTEST_CURRENT_TEST", "no_proxy",
}  # fmt: skip


def run_python(
    folder: Path, environment: dict[str, str], module: str, *arguments: str
) -> tuple[int, str]:
    """Run `python -m module arguments`; return its exit code, and its output and errors."""
    done = run_program(folder, environment, module, *arguments)
    return done.returncode, done.stdout + done.stderr


def run_program(
    folder: Path, environment: dict[str, str], module: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module arguments`."""
    if (server := _server()).has(environment):
        return server.run(folder, environment, module, arguments)
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@cache
def _server() -> "ProgramServer":
    return ProgramServer()


class ProgramServer:
    """A process that forks for each program. It ends with this process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            command = [sys.executable, __file__, str(number)]
            self._process = subprocess.Popen(command, pass_fds=[number])
        self._connection = ours.makefile("rwb", buffering=0)
        self._lock = threading.Lock()
        self._environment = _that_matters(os.environ)

    def has(self, environment: dict[str, str]) -> bool:
        """Whether its modules were imported with these variables."""
        return _that_matters(environment) == self._environment

    def run(
        self, folder: Path, environment: dict[str, str], module: str, arguments: tuple[str, ...]
    ) -> subprocess.CompletedProcess[str]:
        with (
            self._lock,
            tempfile.NamedTemporaryFile() as output,
            tempfile.NamedTemporaryFile() as errors,
        ):
            files = [os.devnull, output.name, errors.name]
            request = [str(folder), environment, files, module, arguments]
            self._connection.write(json.dumps(request).encode() + b"\n")
            code = int(self._connection.readline())
            printed = output.read().decode(), errors.read().decode()
            return subprocess.CompletedProcess([module, *arguments], code, *printed)


def _that_matters(environment: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    return {name: environment[name] for name in environment if name not in CHANGES_NO_IMPORT}


def serve(number: int) -> list:
    """Fork at each request; return the request in the fork."""
    for module in PRELOADED:
        importlib.import_module(module)
    assert "huggingface_hub" not in sys.modules
    gc.freeze()
    with socket.socket(fileno=number) as connected, connected.makefile("rwb", 0) as connection:
        for line in connection:
            if (process := os.fork()) == 0:
                return json.loads(line)
            _, status = os.waitpid(process, 0)
            connection.write(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def run_request(
    folder: str, environment: dict[str, str], files: list[str], module: str, arguments: list[str]
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate(files):
        opened = os.open(name, os.O_RDWR)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv[1:] = arguments
    sys.path[0] = folder
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run_request(*serve(int(sys.argv[1])))
