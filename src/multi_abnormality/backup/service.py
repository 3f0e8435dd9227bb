"""Backup as the training calls it: a save is recorded, and sent while training goes on."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from multi_abnormality.backup.git import GitError
from multi_abnormality.backup.process import Worker
from multi_abnormality.backup.record import RecordError
from multi_abnormality.backup.report import Reporter
from multi_abnormality.backup.setup import Setup, set_up
from multi_abnormality.backup.snapshot_metadata import Generation, SnapshotMetadata
from multi_abnormality.backup.worker import Job
from multi_abnormality.errors import InputError
from multi_abnormality.params_machine import Backup as Settings

STALL = 300.0  # s without a byte moved after which a push is begun anew; doubled each time
LONGEST_STALL = 3600.0
PAUSE = 10.0  # s before the first retry; doubled each time
LONGEST = 900.0  # s between two tries


class Backup:
    """Backs a training up while it runs.

    Nothing here waits for a network but `start`, and `close` for its grace. All methods are
    called by the thread that saves checkpoints, so that none changes while it is read.

    Args:
        settings: the parameters' section.
        root: folder of the project.
        fingerprint: of the run; part of the name of its resume states.
        identity: what the fingerprint is made of; a resume compares it.
    """

    def __init__(
        self,
        settings: Settings,
        root: Path,
        fingerprint: str,
        identity: dict[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self.root = root
        self.fingerprint = fingerprint
        self.identity = identity or {}
        self._setup: Setup | None = None  # None: nothing is backed up
        self._worker = Worker(root)
        self._is_sending = False  # the worker has a job whose end nobody has looked at
        self._job: Job | None = None  # what it is, or what is to be tried again
        self._epochs: int | None = None  # whole epochs done at the newest save
        self._waiting = False  # the newest save is not recorded yet
        self._sent: tuple[str, ...] = ()  # objects of the newest state that arrived
        self._failures = 0
        self._not_before = 0.0
        self._closing = False

    def start(self) -> None:
        """Before the first epoch: see that the remotes can be written, and send the inputs.

        Raises:
            InputError: the remote does not exist, can't be reached or can't be written.
        """
        try:
            self._setup = set_up(self.settings, self.root, self.fingerprint, self._worker)
        finally:
            if self._setup is None:
                self._worker.end()
        if self._setup is not None:
            self._reporter = Reporter(self._setup.ledger)
            self._send(replace(self._setup.job, objects=self._setup.inputs))

    @property
    def is_on(self) -> bool:
        """Whether there is a remote to send to."""
        return self._setup is not None

    def saved(self, epochs_done: int) -> None:
        """Back up what checkpoints/ now holds; never raises for a remote's sake.

        Args:
            epochs_done: whole epochs.
        """
        if self._setup is not None:
            self._epochs, self._waiting = epochs_done, True
            self.poll()

    def poll(self) -> None:
        """See what became of a push; once it ended, record and send a newer state. Cheap."""
        if not self._is_sending:
            self._worker.rest()
        elif not self._worker.is_busy():
            self._finish()
        elif self._worker.still_for() > self._grown(STALL, LONGEST_STALL):
            self._give_up()
            self._fail("nothing moved for minutes")
        if not self._is_sending and self._is_behind() and time.monotonic() >= self._not_before:
            self._launch()

    def close(self, grace: float) -> None:
        """Send the last state, and give up when time is over. No process is left behind.

        Args:
            grace: seconds.
        """
        if self._setup is None:
            return
        deadline = time.monotonic() + grace
        self._closing = True
        try:
            self._send_last(deadline)
        finally:
            self._give_up()
        self._reporter.told_at_the_end(self._setup.job.remote, self._is_behind(), grace)

    def _is_behind(self) -> bool:
        return self._waiting or self._job is not None

    def _send_last(self, deadline: float) -> None:
        if self._is_sending:  # an older state's push may be as good as done
            left = deadline - time.monotonic()
            if self._worker.wait(left / 2 if self._waiting else left):
                self._finish()
            else:
                self._give_up()
        self._waiting = self._epochs is not None
        self._launch()
        while self._is_behind() and time.monotonic() < deadline:
            if not self._is_sending:
                time.sleep(1.0)
                self._launch()
            elif self._worker.wait(deadline - time.monotonic()):
                self._finish()

    def _launch(self) -> None:
        if self._waiting and self._epochs is not None:
            try:
                self._record(self._epochs)
            except (RecordError, GitError, InputError, OSError) as error:
                self._fail(str(error))
                return
        if self._job is not None:
            self._send(self._job)

    def _send(self, job: Job) -> None:
        self._job = job
        self._worker.give(replace(job, awaited=self._closing))
        self._is_sending = True

    @property
    def _ready(self) -> Setup:
        assert self._setup is not None  # or nothing is ever sent
        return self._setup

    def _record(self, epochs: int) -> None:
        setup, run = self._ready, self._ready.job.run
        recorded = setup.recorder.record(epochs)
        self._waiting = False
        if recorded.objects == self._sent:
            self._job = None
            return
        newest = Generation(epochs=recorded.epochs, objects=recorded.objects, own=recorded.own)
        commit = None
        if setup.snapshot is not None:
            sent = [item for item in setup.ledger.generations(run) if item.sent]
            generations = (*sent[-self.settings.keep :], newest)
            metadata = SnapshotMetadata(
                run=run, epochs=recorded.epochs, identity=self.identity,
                generations=tuple(item.model_copy(update={"remote": ""}) for item in generations),
            )  # fmt: skip
            commit = setup.snapshot.commit(setup.written, metadata)
        setup.ledger.add_generation(run, newest)
        self._job = replace(
            setup.job, objects=(*setup.inputs, *recorded.objects),
            epochs=recorded.epochs, commit=commit,
        )  # fmt: skip

    def _finish(self) -> None:
        said = self._worker.said()
        self._is_sending = False
        if "error" in said:
            self._worker.end()  # what it may have noted wrongly goes with it
            self._fail(said["error"])
            return
        job, self._job = self._job, None
        assert job is not None  # it was sent
        self._failures = 0
        if job.epochs is not None:
            self._sent = job.objects[len(self._ready.inputs) :]
        self._reporter.told_backup(job, said)

    def _fail(self, reason: str) -> None:
        pause = self._grown(PAUSE, LONGEST)
        self._failures += 1
        self._not_before = time.monotonic() + pause
        self._reporter.told_failure(reason, pause)

    def _grown(self, seconds: float, longest: float) -> float:
        """A patience, doubled by each failure since the last success."""
        doubled = min(self._failures, 100)  # days of failures are more than a float holds
        return min(seconds * 2.0**doubled, longest)

    def _give_up(self) -> None:
        self._worker.end()
        self._is_sending = False
