"""Logging of backups, in the log and in the upload log."""

import re
from collections.abc import Callable
from typing import Any

from multi_abnormality.backup.upload_log import UploadLog
from multi_abnormality.backup.upload_worker import Job
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError

_OBJECT_NAME = re.compile(
    r"[0-9a-f]{2}(/[0-9a-f]{2})?[0-9a-f]{10,}(\.dir)?"
)  # differs between repeated failures


class BackupLogger:
    """Logs one line per backup, and a repeated failure once.

    Args:
        upload_log: upload log of this working copy.
    """

    def __init__(self, upload_log: UploadLog) -> None:
        self._upload_log = upload_log
        self._logged: set[str] = set()

    def log_backup(self, job: Job, result: dict[str, Any]) -> None:
        keys = ("bytes", "seconds", "resume", "pruned")
        fields = {key: result[key] for key in keys if key in result}
        self._write(self._upload_log.add_backup, {
            "remote": job.remote, "epochs": job.epochs, "commit": job.commit, **fields,
        })  # fmt: skip
        what = "the training data" if job.epochs is None else f"training, epochs done {job.epochs}"
        resume = f", resume commit: {result['resume']}" if "resume" in result else ""
        log.info(
            "backed up %s: %.1f MB in %.1f s to %s%s",
            what, result["bytes"] / 1e6, result["seconds"], result["to"], resume,
        )  # fmt: skip
        self._logged = {reason for reason in self._logged if reason in result.values()}
        for key, text in (
            ("git", "the Git remote failed, so the resume commit went to the DVC remote"),
            ("not_pruned", "superseded backups could not be deleted from the remote"),
        ):
            if key in result and result[key] not in self._logged:
                self._logged.add(result[key])
                log.warning("%s: %s", text, result[key])

    def log_failure(self, reason: str, pause: float) -> None:
        self._write(self._upload_log.add_failure, reason)
        kind = _OBJECT_NAME.sub("", reason)
        if kind not in self._logged:
            self._logged.add(kind)
            log.warning("backup failed, next try in %.0f s: %s", pause, reason)

    def log_summary(self, remote: str, behind: bool, grace: float) -> None:
        last = self._upload_log.last_backup()
        uploaded = f"epochs done {last['epochs']}, sent {last['at']}" if last else "no state"
        if behind:
            log.warning(
                "the newest state did not reach %s within %.0f s; newest state there: %s. This "
                "machine still has it: `dvc repro` resumes from it and backs it up",
                remote, grace, uploaded,
            )  # fmt: skip
        elif last:
            log.info("all is backed up on %s: %s", remote, uploaded)

    def _write(self, write: Callable[[Any], None], entry: Any) -> None:
        try:
            write(entry)
        except InputError as error:  # never stops training
            log.warning("%s", error)
