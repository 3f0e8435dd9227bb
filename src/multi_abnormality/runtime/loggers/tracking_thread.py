"""Base of loggers that send metrics to an experiment tracker, which may be slow or away."""

import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import ClassVar

from multi_abnormality.runtime.loggers.logged_run import LoggedRun, epoch_values, step_values
from multi_abnormality.training.history import History, StepMetrics
from multi_abnormality.utils.console import log

RETRY_SECONDS = 60.0
CLOSE_SECONDS = 30.0  # that the end of training waits for metrics that were not sent yet
STOP_SECONDS = 5.0  # that a stop waits: the last backup needs the time, and a resume sends the rest
STEPS_PER_BATCH = 200


class TrackingThread(ABC):
    """Sends a run's metrics to a tracker from a thread, whose failure never ends the training.

    The thread sends what the history has and the tracker does not hold yet. After a failure it
    warns once, and connects again after a while.

    Subclasses implement `connect`, `send_steps`, `send_epoch` and `finish`, which it calls.

    Attributes:
        name: name of the tracker.
        run: the logged run.
        sent_step: last optimizer step that the tracker holds.
        sent_epochs: number of epochs that it holds.
    """

    name: ClassVar[str]

    def __init__(self, run: LoggedRun) -> None:
        self.run = run
        self.sent_step = self.sent_epochs = 0
        self._speeds: dict[int, float] = {}  # volumes per second, by step, until they are sent
        self._has_warned = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
        self._thread.start()

    @abstractmethod
    def connect(self) -> None:
        """Connect to the tracker, and set `sent_step` and `sent_epochs`."""

    @abstractmethod
    def send_steps(self, steps: Mapping[int, dict[str, float]]) -> None:
        """Send the metrics of optimizer steps, by step, in order."""

    @abstractmethod
    def send_epoch(self, epoch: int, values: dict[str, float]) -> None:
        """Send the metrics of an epoch."""

    @abstractmethod
    def finish(self) -> None:
        """Close the tracker's run, which may be resumed later unless it is finished."""

    def log_steps(self, steps: Sequence[StepMetrics], volumes_per_second: float) -> None:
        self._speeds |= dict.fromkeys((step.step for step in steps), volumes_per_second)
        self._wake.set()

    def log_epoch(self, history: History) -> None:  # noqa: ARG002
        self._wake.set()

    def close(self) -> None:
        self._closing.set()
        self._wake.set()
        seconds = CLOSE_SECONDS if self.run.is_finished else STOP_SECONDS
        self._thread.join(seconds)
        if self._thread.is_alive():
            log.warning("%s: not all metrics were sent in %.0f s", self.name, seconds)

    def _work(self) -> None:
        is_connected = False
        while True:
            self._wake.clear()
            is_last = self._closing.is_set()
            try:
                if not is_connected:
                    self.connect()
                    is_connected = True
                self._send_new()
                if is_last:
                    self.finish()
            except Exception as error:  # whatever it is, training continues
                is_connected = False
                self._warn(error, is_last)
            if is_last:
                return
            if is_connected:
                self._wake.wait()
            else:
                self._closing.wait(RETRY_SECONDS)

    def _send_new(self) -> None:
        steps, epochs = self.run.history.steps, self.run.history.epochs
        first = bisect_right(steps, self.sent_step, key=lambda each: each.step)
        for start in range(first, len(steps), STEPS_PER_BATCH):
            group = steps[start : start + STEPS_PER_BATCH]
            self.send_steps(
                {each.step: step_values(each, self._speeds.get(each.step)) for each in group}
            )
            self.sent_step = group[-1].step
            for each in group:
                self._speeds.pop(each.step, None)
        for epoch in epochs[self.sent_epochs :]:
            self.send_epoch(epoch.epoch, epoch_values(epoch))
            self.sent_epochs += 1

    def _warn(self, error: Exception, is_last: bool) -> None:
        if self._has_warned and not is_last:
            return
        self._has_warned = True
        text = " ".join(str(error).split())[:300] or type(error).__name__
        then = "some are missing there" if is_last else "training continues, and retries later"
        log.warning("%s: metrics cannot be logged (%s); %s", self.name, text, then)
