"""Ending a training before its end: asked for at any moment, done between two steps."""

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from multi_abnormality.console import log

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: "try again later"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

Handler = Callable[[int, FrameType | None], Any] | int | None  # of a signal, as Python has it


class Stopped(Exception):
    """Training has saved at the very step at which it was asked to stop, for this reason."""


class StopRequest:
    """Whether training is to stop: because of a signal, or because its time is over.

    As a context it takes the signals over. The second one of a kind ends the process at once, for
    someone who can't wait for the step to end. (Python's own way, an exception anywhere, can leave
    Lightning with loader workers that it waits for.)

    Args:
        time_budget: seconds from now; None: no end.
    """

    def __init__(self, time_budget: float | None = None) -> None:
        self._budget = time_budget
        self._started = time.monotonic()
        self._signal: str | None = None
        self._handlers: dict[int, Handler] = {}

    @property
    def reason(self) -> str | None:
        """Why to stop; None: not to."""
        if self._signal:
            return self._signal
        if self._budget is not None and time.monotonic() - self._started >= self._budget:
            return "its time budget is used up"
        return None

    def __enter__(self) -> "StopRequest":
        self._handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self.listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals, also from a library that took them since."""
        for number in _SIGNALS:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._signal = f"it received {signal.Signals(number).name}"
        signal.signal(number, signal.SIG_DFL)
        log.info("%s: stopping after this step; once more ends it at once", self._signal)
