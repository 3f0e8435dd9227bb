"""The stand-in in a subprocess, so that it does not share an interpreter with its clients."""

import json
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from drive_stand_in.faults import Faults

START_SECONDS = 30
PACKAGE = Path(__file__).parent


class DriveProcess:
    """Context manager that serves from a child process, which exits with this process.

    Args:
        folder: directory for uploaded files.
        faults: initial faults.
        low_priority: whether to run at low CPU priority, since a real Drive uses no local CPU.
    """

    def __init__(
        self, folder: Path, faults: Faults | None = None, low_priority: bool = False
    ) -> None:
        self.folder = folder
        self._faults = faults or Faults()
        self._options = ["--low-priority"] if low_priority else []
        self._info: dict[str, Any] = {}

    def __enter__(self) -> Self:
        ready = self.folder / "stand-in.json"
        ready.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", PACKAGE.name, str(self.folder), *self._options],
            cwd=PACKAGE.parent,
            stdin=subprocess.PIPE,
            start_new_session=True,  # so that the whole session may lower its priority
        )
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the Drive stand-in did not start")
            time.sleep(0.05)
        self._info = json.loads(ready.read_text())
        self.set_faults(self._faults)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=START_SECONDS)

    def environment(self) -> dict[str, str]:
        return self._info["environment"]

    def set_faults(self, faults: Faults) -> None:
        self._call(json.dumps(asdict(faults)).encode())

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the counts of calls and faults."""
        return self._call(None)

    def _call(self, body: bytes | None) -> dict[str, Any]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self._info['url']}/stand-in", body, timeout=START_SECONDS) as answer:
            return json.load(answer)
