"""Faults of the stand-in."""

import re
import threading
from dataclasses import dataclass

KINDS = (
    "unavailable",  # status 503
    "busy",  # status 429, which asks for a retry after five minutes
    "silent",  # no response, and the connection is closed after `after` seconds
    "cut",  # the connection is closed after `after` bytes
    "wrong",  # the first byte is changed
    "longer",  # the response has `after` more bytes than the file
    "slow",  # the response is sent in chunks of `after` bytes, one per 50 ms
)


@dataclass
class Fault:
    """Fault of downloads whose path matches, limited to `times` if set."""

    kind: str
    match: str = ".*"
    after: int = 0
    times: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind} is not one of {', '.join(KINDS)}")


class FaultSource:
    """Selects faults. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def set(self, *faults: Fault) -> None:
        with self._lock:
            self._faults = list(faults)

    def draw(self, path: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.times != 0 and re.search(fault.match, path):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None
