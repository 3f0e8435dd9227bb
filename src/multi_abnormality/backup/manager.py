"""Backup manager: records each save, and uploads it while training continues."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from multi_abnormality.backup.backup_logger import BackupLogger
from multi_abnormality.backup.dvc_recorder import RecordError
from multi_abnormality.backup.git import GitError
from multi_abnormality.backup.preflight import PreflightResult, run_preflight
from multi_abnormality.backup.snapshot_metadata import Generation, SnapshotMetadata
from multi_abnormality.backup.upload_worker import Job
from multi_abnormality.backup.worker_client import UploadWorker
from multi_abnormality.config.schema import BackupConfig as Settings
from multi_abnormality.utils.errors import InputError

STALL_TIMEOUT = 300.0  # s without progress after which a push is restarted; doubled each time
MAX_STALL_TIMEOUT = 3600.0  # s
RETRY_DELAY = 10.0  # s; doubled each time
MAX_RETRY_DELAY = 900.0  # s


class BackupManager:
    """Backs up a running training.

    Only `start` and, for its grace period, `close` wait for the network. All methods must be called
    by the thread that saves checkpoints, so that no checkpoint changes while it is read.

    Args:
        settings: `backup` section of params.yaml.
        root: root directory of the project.
        fingerprint: fingerprint of the run; part of the names of its resume states.
        identity: what the fingerprint was computed from; compared on resume.
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
        self._preflight: PreflightResult | None = None  # None: backup is off
        self._worker = UploadWorker(root)
        self._is_sending = False  # a job was submitted and its result not yet read
        self._job: Job | None = None  # the submitted job, or the one to retry
        self._epochs: int | None = None  # completed epochs at the newest save
        self._is_unrecorded = False  # the newest save is not yet in dvc.lock
        self._sent: tuple[str, ...] = ()  # objects of the newest uploaded state
        self._failures = 0
        self._next_try = 0.0
        self._closing = False

    def start(self) -> None:
        """Check the remotes before the first epoch, and upload the stage's inputs.

        Raises:
            InputError: the remote does not exist, can't be reached or can't be written.
        """
        try:
            self._preflight = run_preflight(
                self.settings, self.root, self.fingerprint, self._worker
            )
        finally:
            if self._preflight is None:
                self._worker.terminate()
        if self._preflight is not None:
            self._reporter = BackupLogger(self._preflight.upload_log)
            self._send(replace(self._preflight.job, objects=self._preflight.inputs))

    @property
    def is_on(self) -> bool:
        """Whether there is a remote to back up to."""
        return self._preflight is not None

    def saved(self, epochs_done: int) -> None:
        """Back up the current checkpoints. Failures of a remote are only logged.

        Args:
            epochs_done: number of completed epochs.
        """
        if self._preflight is not None:
            self._epochs, self._is_unrecorded = epochs_done, True
            self.poll()

    def poll(self) -> None:
        """Check on the running push; once it is finished, start that of a newer state. Cheap."""
        if not self._is_sending:
            self._worker.stop_if_idle()
        elif not self._worker.is_busy():
            self._finish()
        elif self._worker.seconds_since_progress() > self._backoff(
            STALL_TIMEOUT, MAX_STALL_TIMEOUT
        ):
            self._abort_job()
            self._fail("the upload made no progress for minutes")
        if not self._is_sending and self._is_behind() and time.monotonic() >= self._next_try:
            self._launch()

    def close(self, grace: float) -> None:
        """Upload the last state within a time limit, and terminate the worker.

        Args:
            grace: time limit in seconds.
        """
        if self._preflight is None:
            return
        deadline = time.monotonic() + grace
        self._closing = True
        try:
            self._send_last(deadline)
        finally:
            self._abort_job()
        self._reporter.log_summary(self._preflight.job.remote, self._is_behind(), grace)

    def _is_behind(self) -> bool:
        return self._is_unrecorded or self._job is not None

    def _send_last(self, deadline: float) -> None:
        if self._is_sending:  # the push of an older state may be almost finished
            left = deadline - time.monotonic()
            if self._worker.wait(left / 2 if self._is_unrecorded else left):
                self._finish()
            else:
                self._abort_job()
        self._is_unrecorded = self._epochs is not None
        self._launch()
        while self._is_behind() and time.monotonic() < deadline:
            if not self._is_sending:
                time.sleep(1.0)
                self._launch()
            elif self._worker.wait(deadline - time.monotonic()):
                self._finish()

    def _launch(self) -> None:
        if self._is_unrecorded and self._epochs is not None:
            try:
                self._record(self._epochs)
            except (RecordError, GitError, InputError, OSError) as error:
                self._fail(str(error))
                return
        if self._job is not None:
            self._send(self._job)

    def _send(self, job: Job) -> None:
        self._job = job
        self._worker.submit(replace(job, awaited=self._closing))
        self._is_sending = True

    @property
    def _ready(self) -> PreflightResult:
        assert self._preflight is not None  # else nothing is submitted
        return self._preflight

    def _record(self, epochs: int) -> None:
        preflight, run = self._ready, self._ready.job.run
        recorded = preflight.recorder.record(epochs)
        self._is_unrecorded = False
        if recorded.objects == self._sent:
            self._job = None
            return
        newest = Generation(epochs=recorded.epochs, objects=recorded.objects, own=recorded.own)
        commit = None
        if preflight.snapshot is not None:
            sent = [item for item in preflight.upload_log.generations(run) if item.sent]
            generations = (*sent[-self.settings.keep_last :], newest)
            metadata = SnapshotMetadata(
                run=run, epochs=recorded.epochs, identity=self.identity,
                generations=tuple(item.model_copy(update={"remote": ""}) for item in generations),
            )  # fmt: skip
            commit = preflight.snapshot.commit(preflight.written, metadata)
        preflight.upload_log.add_generation(run, newest)
        self._job = replace(
            preflight.job, objects=(*preflight.inputs, *recorded.objects),
            epochs=recorded.epochs, commit=commit,
        )  # fmt: skip

    def _finish(self) -> None:
        result = self._worker.result()
        self._is_sending = False
        if "error" in result:
            self._worker.terminate()  # drops state that may be wrong
            self._fail(result["error"])
            return
        job, self._job = self._job, None
        assert job is not None  # it was submitted
        self._failures = 0
        if job.epochs is not None:
            self._sent = job.objects[len(self._ready.inputs) :]
        self._reporter.log_backup(job, result)

    def _fail(self, reason: str) -> None:
        delay = self._backoff(RETRY_DELAY, MAX_RETRY_DELAY)
        self._failures += 1
        self._next_try = time.monotonic() + delay
        self._reporter.log_failure(reason, delay)

    def _backoff(self, seconds: float, longest: float) -> float:
        """Return a time doubled by each failure since the last success, up to `longest`."""
        doubled = min(self._failures, 100)  # more would overflow a float
        return min(seconds * 2.0**doubled, longest)

    def _abort_job(self) -> None:
        self._worker.terminate()
        self._is_sending = False
