"""A Dask cluster of processes on loopback, started as users do."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

TESTS = Path(__file__).parent
START_SECONDS = 600


class DaskCluster:
    """Context manager that starts a cluster and stops it.

    Attributes:
        address: address of the scheduler.
        processes: the scheduler, then workers or their nannies, in the order of their start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen] = []
        self._file = folder / "scheduler.json"

    def __enter__(self) -> "DaskCluster":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._start("scheduler", "--port", "0", "--scheduler-file", str(self._file))
        end = time.monotonic() + START_SECONDS
        while not self._file.exists() or not self._file.read_text().strip():
            assert time.monotonic() < end, self.log("scheduler")
            time.sleep(0.02)
        self.address = json.loads(self._file.read_text())["address"]
        return self

    def __exit__(self, *_: object) -> None:
        found = []
        for process in reversed(self.processes):
            if process.poll() is None:
                found += psutil.Process(process.pid).children(recursive=True)
                process.kill()
            process.wait()
        for process in found:
            if process.is_running():
                process.kill()
        psutil.wait_procs(found, timeout=10)

    def add_worker(self, *options: str, paths: tuple[Path, ...] = (TESTS,)) -> subprocess.Popen:
        """Start a worker with one thread, and without a nanny unless the options name one."""
        given = options or ("--no-nanny",)
        scratch = self.folder / "scratch"
        return self._start(
            "worker", "--scheduler-file", str(self._file), "--nthreads", "1",
            "--local-directory", str(scratch), *given, paths=paths,
        )  # fmt: skip

    def kill(self, process: subprocess.Popen) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()

    def log(self, kind: str) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob(f"{kind}-*.log")))

    def _start(self, kind: str, *options: str, paths: tuple[Path, ...] = ()) -> subprocess.Popen:
        known = [*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-m", "distributed.cli.dask_" + kind]
        network = ["--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        log = self.folder / f"{kind}-{len(self.processes)}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                [*command, *network, *options], stdout=file, stderr=file,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(known)}, cwd=self.folder,
            )  # fmt: skip
        self.processes.append(process)
        return process
