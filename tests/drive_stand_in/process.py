"""The stand-in in a process of its own, so that it shares no interpreter with what it serves."""

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
    """Serves from a child process while its `with` block lasts; it dies with this process.

    Args:
        folder: where it keeps what it is given.
        faults: that it begins with.
        aside: leave the processors to others, as a Drive that is elsewhere does.
    """

    def __init__(self, folder: Path, faults: Faults | None = None, aside: bool = False) -> None:
        self.folder = folder
        self._faults = faults or Faults()
        self._options = ["--aside"] if aside else []
        self._about: dict[str, Any] = {}

    def __enter__(self) -> Self:
        ready = self.folder / "stand-in.json"
        ready.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", PACKAGE.name, str(self.folder), *self._options],
            cwd=PACKAGE.parent,
            stdin=subprocess.PIPE,
            start_new_session=True,  # of which it may step back
        )
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the Drive stand-in did not start")
            time.sleep(0.05)
        self._about = json.loads(ready.read_text())
        self.set_faults(self._faults)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=START_SECONDS)

    def environment(self) -> dict[str, str]:
        return self._about["environment"]

    def set_faults(self, faults: Faults) -> None:
        self._call(json.dumps(asdict(faults)).encode())

    def counts(self) -> dict[str, dict[str, int]]:
        """How often each call and each fault has happened."""
        return self._call(None)

    def _call(self, body: bytes | None) -> dict[str, Any]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self._about['url']}/stand-in", body, timeout=START_SECONDS) as answer:
            return json.load(answer)
