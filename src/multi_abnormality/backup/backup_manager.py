"""Backup manager: records each save, and uploads it while training continues."""

import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from multi_abnormality.backup.backup_setup import BackupSetup, set_up_backup
from multi_abnormality.backup.dvc_recorder import RecordError
from multi_abnormality.backup.git import GitError
from multi_abnormality.backup.push import Job, PushProcess
from multi_abnormality.backup.resume_commit import Generation, ResumeMetadata
from multi_abnormality.config.schema import BackupConfig as Settings
from multi_abnormality.runtime.checkpoint_saver import BackupHook
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError

STALL_TIMEOUT = 300.0  # s without progress after which a push is stopped; doubled by each failure
MAX_DOUBLINGS = 4
_OBJECT_NAME = re.compile(
    r"[0-9a-f]{2}(/[0-9a-f]{2})?[0-9a-f]{10,}(\.dir)?"
)  # differs between repeated failures


@dataclass
class BackupManager(BackupHook):
    """Backs up a running training.

    Only `start` and, for its grace period, `close` wait for the network. All methods must be called
    by the thread that saves checkpoints, so that no checkpoint changes while it is read. One push
    runs at a time, and the next one uploads the newest save. A push that failed is repeated at the
    next save.
    """

    is_on: ClassVar = True

    settings: Settings
    root: Path
    fingerprint: str
    identity: dict[str, Any] = field(default_factory=dict)
    _push: PushProcess | None = None  # the running push
    _epochs: int | None = None  # completed epochs at the newest save
    _is_final: bool = False  # the newest save is a finished run's
    _is_pending: bool = False  # the newest save is neither uploaded nor being uploaded
    _has_failed: bool = False  # the last push, and there was no save since
    _failures: int = 0  # since the last success
    _sent: tuple[str, ...] | None = None  # objects of the newest uploaded state
    _recorded: tuple[str, ...] = ()  # objects of the newest recorded state
    _logged: set[str] = field(default_factory=set)

    def start(self) -> bool:
        """Check the remotes before the first epoch; return whether there is one to back up to.

        Raises:
            InputError: the remote does not exist, can't be reached or can't be written.
        """
        setup = set_up_backup(self.settings, self.root, self.fingerprint)
        if setup is not None:
            self._setup: BackupSetup = setup
        return setup is not None

    def saved(self, epochs_done: int, is_final: bool = False) -> None:
        """Back up the current checkpoints. Failures of a remote are only logged.

        Args:
            is_final: whether training is complete, so that no later save repeats a failed upload.
        """
        self._is_final = is_final
        self._epochs, self._is_pending, self._has_failed = epochs_done, True, False
        self.poll()

    def poll(self) -> None:
        """Check on the running push; once it is finished, start that of a newer save. Cheap."""
        if self._push is not None:
            stall_timeout = STALL_TIMEOUT * 2 ** min(self._failures, MAX_DOUBLINGS)
            if not self._push.is_running():
                self._finish()
            elif self._push.seconds_since_progress() > stall_timeout:
                self._abort()
                self._fail("the upload made no progress for minutes")
        if self._push is None and self._is_pending and not self._has_failed:
            self._launch()

    def close(self, grace: float) -> None:
        """Upload the last state within `grace` seconds, and stop the push."""
        deadline = time.monotonic() + grace
        try:
            self._push_last(deadline)
        finally:
            self._abort()
        self._log_summary(grace)

    def _push_last(self, deadline: float) -> None:
        if self._push is not None:  # it may be almost finished
            if self._push.wait((deadline - time.monotonic()) / 2):
                self._finish()
            self._abort()
        self._is_pending = self._epochs is not None
        while self._is_pending:
            self._launch(awaited=True)
            left = deadline - time.monotonic()
            if self._push is not None and self._push.wait(left):
                self._finish()
            if left <= 0 or self._push is not None:
                break
            if self._is_pending:
                time.sleep(1.0)

    def _launch(self, awaited: bool = False) -> None:
        """Record the newest save and start its push."""
        try:
            job = self._record()
            self._is_pending = False
            if job is not None:
                self._push = PushProcess(replace(job, awaited=awaited))
        except (RecordError, GitError, InputError, OSError) as error:
            self._fail(str(error))

    def _record(self) -> Job | None:
        """Record the newest save; return its upload, or None if the remote has all of it."""
        setup, epochs = self._setup, self._epochs
        assert epochs is not None  # there was a save
        self._recorded, added = setup.recorder.record(epochs)
        if self._recorded == self._sent:
            return None
        known = setup.upload_log.generations(setup.job.run)
        owned = set(added).union(*(item.own for item in known))
        own = tuple(hash_ for hash_ in self._recorded if hash_ in owned)
        newest = Generation(epochs=epochs, objects=self._recorded, own=own)
        commit = self._commit(known, newest)
        setup.upload_log.set_generations(setup.job.run, [*known, newest])
        targets = tuple(out.def_path for out in setup.recorder.outputs)
        job = replace(setup.job, targets=targets, epochs=epochs, commit=commit)
        if self._sent is not None:
            return job
        inputs = setup.inputs  # only in the first backup
        return replace(job, targets=(*inputs.paths, *targets), inputs=inputs.objects)

    def _commit(self, known: list[Generation], newest: Generation) -> str | None:
        """Create the resume commit and return its hash, or None without a Git repository."""
        setup = self._setup
        if setup.commits is None:
            return None
        sent = [item for item in known if item.sent][-self.settings.keep_last :]
        metadata = ResumeMetadata(
            run=setup.job.run, epochs=newest.epochs, identity=self.identity,
            generations=tuple(item.model_copy(update={"remote": ""}) for item in (*sent, newest)),
        )  # fmt: skip
        return setup.commits.commit(setup.written, metadata)

    def _finish(self) -> None:
        assert self._push is not None
        result = self._push.result()
        self._abort()
        if "error" in result:
            self._fail(result["error"])
        else:
            self._failures, self._sent = 0, self._recorded
            self._log_backup(result)

    def _fail(self, reason: str) -> None:
        self._failures += 1
        self._is_pending = self._has_failed = True
        if (kind := _OBJECT_NAME.sub("", reason)) not in self._logged:
            self._logged.add(kind)
            log.warning("backup failed, next try at the next save: %s", reason)

    def _abort(self) -> None:
        if self._push is not None:
            self._is_pending = self._is_pending or self._push.is_running()
            self._push.terminate()
            self._push = None

    def _log_backup(self, result: dict[str, Any]) -> None:
        resume = f", resume commit: {result['resume']}" if "resume" in result else ""
        log.info(
            "backed up training, epochs done %d: %.1f MB in %.1f s to %s%s",
            result["epochs"], result["bytes"] / 1e6, result["seconds"], result["to"], resume,
        )  # fmt: skip
        self._logged = {reason for reason in self._logged if reason in result.values()}
        for key, text in (
            ("git_error", "the Git remote failed, so the resume commit went to the DVC remote"),
            ("not_pruned", "superseded backups could not be deleted from the remote"),
        ):
            if key in result and result[key] not in self._logged:
                self._logged.add(result[key])
                log.warning("%s: %s", text, result[key])

    def _log_summary(self, grace: float) -> None:
        remote = self._setup.job.remote
        last = self._setup.upload_log.last_backup(self._setup.job.run, remote)
        newest = f"epochs done {last['epochs']}, sent {last['at']}" if last else "no state"
        if self._is_pending:
            advice = (
                "Training is complete and not uploaded again: run `dvc push`"
                if self._is_final
                else "This machine still has it: `dvc repro` resumes from it and backs it up"
            )
            log.warning(
                "the newest state did not reach %s within %.0f s; newest state there: %s. %s",
                remote, grace, newest, advice,
            )  # fmt: skip
        elif last:
            log.info("all is backed up on %s: %s", remote, newest)
