"""What a backup tells, in the log and in its ledger."""

import re
from collections.abc import Callable
from typing import Any

from multi_abnormality.backup.ledger import Ledger
from multi_abnormality.backup.worker import Job
from multi_abnormality.console import log
from multi_abnormality.errors import InputError

_NAMES = re.compile(
    r"[0-9a-f]{2}(/[0-9a-f]{2})?[0-9a-f]{10,}(\.dir)?"
)  # of objects: another each time


class Reporter:
    """One line a backup; a failure once, until it is over.

    Args:
        ledger: of this folder.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._told: set[str] = set()

    def told_backup(self, job: Job, said: dict[str, Any]) -> None:
        keys = ("bytes", "seconds", "resume", "pruned")
        told = {key: said[key] for key in keys if key in said}
        self._note(self._ledger.add_backup, {
            "remote": job.remote, "epochs": job.epochs, "commit": job.commit, **told,
        })  # fmt: skip
        what = (
            "what training reads" if job.epochs is None else f"training, epochs done {job.epochs}"
        )
        resume = f", resume commit: {said['resume']}" if "resume" in said else ""
        log.info(
            "backed up %s: %.1f MB in %.1f s to %s%s",
            what, said["bytes"] / 1e6, said["seconds"], said["to"], resume,
        )  # fmt: skip
        self._told = {reason for reason in self._told if reason in said.values()}
        for key, text in (
            ("git", "the Git remote failed, so the resume commit went to the DVC remote"),
            ("not_pruned", "superseded backups were left on the remote"),
        ):
            if key in said and said[key] not in self._told:
                self._told.add(said[key])
                log.warning("%s: %s", text, said[key])

    def told_failure(self, reason: str, pause: float) -> None:
        self._note(self._ledger.add_failure, reason)
        kind = _NAMES.sub("", reason)
        if kind not in self._told:
            self._told.add(kind)
            log.warning("backup failed, next try in %.0f s: %s", pause, reason)

    def told_at_the_end(self, remote: str, behind: bool, grace: float) -> None:
        last = self._ledger.last_backup()
        there = f"epochs done {last['epochs']}, sent {last['at']}" if last else "no state"
        if behind:
            log.warning(
                "the newest state did not reach %s within %.0f s; what is there: %s. This machine "
                "has it all: `dvc repro` goes on from it and backs it up",
                remote, grace, there,
            )  # fmt: skip
        elif last:
            log.info("all is backed up on %s: %s", remote, there)

    def _note(self, write: Callable[[Any], None], what: Any) -> None:
        try:
            write(what)
        except InputError as error:  # no reason to stop a training
            log.warning("%s", error)
