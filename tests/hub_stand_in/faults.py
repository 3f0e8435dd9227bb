"""What the stand-in does wrong, and to which files."""

import re
import threading
from dataclasses import dataclass

KINDS = (
    "unavailable",  # status 503
    "cut",  # the connection ends after `after` bytes of the answer
    "wrong",  # the first byte of the answer is another
    "longer",  # the answer continues with `after` more bytes than the file has
    "slow",  # the answer comes in pieces of `after` bytes, one each 50 ms
)


@dataclass
class Fault:
    """Befalls downloads whose path matches; ends after `times`, or never."""

    kind: str
    match: str = ".*"
    after: int = 0
    times: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind} is none of {', '.join(KINDS)}")


class FaultSource:
    """Safe for threads."""

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
