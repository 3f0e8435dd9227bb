"""Graceful stop: requested by a signal or a time budget, carried out between two steps."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from multi_abnormality.utils.console import log

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: "try again later"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # SLURM jobs often use SIGUSR1
REPEAT_AFTER = 1.0  # s: a system may send a signal to a process and its launcher, which forwards it


class Stopped(Exception):
    """Training was stopped for the given reason, after saving a checkpoint at that step."""


def mark_stopped() -> None:
    """Leave a file for scripts, since DVC and torchrun hide the exit code."""
    mark = stopped_mark()
    mark.parent.mkdir(exist_ok=True)
    mark.touch()


def stopped_mark() -> Path:
    return (Path(".dvc/tmp") if Path(".dvc").is_dir() else Path("logs")) / "stopped"


def exit_on_signals() -> None:
    """Until a StopRequest handles signals, exit immediately: there is nothing to save yet."""
    for number in SIGNALS:
        signal.signal(number, _exit)


def _exit(number: int, _: object) -> None:
    mark_stopped()
    name = signal.Signals(number).name
    os.write(2, f"stopped, since it received {name}; `dvc repro` continues\n".encode())
    os._exit(EXIT_CODE)


def ignore_signals() -> None:
    """Ignore signals once all is written; otherwise one while the interpreter ends is a failure."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class StopRequest:
    """Request to stop training, after SIGTERM, SIGINT, SIGUSR1 or a time budget.

    As a context manager it installs signal handlers. A later signal of the same kind ends the
    process immediately. (Python's default, an exception at any point, can leave loader workers.)

    Args:
        max_time: time budget in seconds from now; None for no limit.
    """

    def __init__(self, max_time: float | None = None) -> None:
        self._budget = max_time
        self._started = time.monotonic()
        self._signal: str | None = None
        self._is_signal_logged = False
        self._received: dict[int, float] = {}  # time of the first signal of each kind
        self._handlers: dict[int, Any] = {}

    @property
    def reason(self) -> str | None:
        """Reason to stop, or None; a signal is logged by the first call after it.

        The handler itself must not log: it may have interrupted a log call that holds a lock.
        """
        if self._signal:
            if not self._is_signal_logged:
                self._is_signal_logged = True
                log.info("%s: stopping; repeat to exit immediately", self._signal)
            return self._signal
        if self._budget is not None and time.monotonic() - self._started >= self._budget:
            return "its time budget is used up"
        return None

    def __enter__(self) -> "StopRequest":
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: object) -> None:
        first = self._received.setdefault(number, time.monotonic())
        if time.monotonic() - first > REPEAT_AFTER:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self._signal is None:
            self._signal = f"it received {signal.Signals(number).name}"
