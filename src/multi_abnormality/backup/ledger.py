"""`.dvc/tmp/backup.json`: what was backed up when, and what this run may take away again."""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from multi_abnormality.backup.snapshot_metadata import Generation
from multi_abnormality.console import log
from multi_abnormality.files import write_json

KEPT_LINES = 100  # backups that stay listed
_ADDRESS = re.compile(r"""(?:\b[a-z0-9+]+:/|(?<![\w.]))/(?:[^'"\n]*(?=['"])|[^\s'",;]+)""")


class Ledger:
    """The file, read anew at each use: the training and its worker take turns.

    Args:
        path: of the JSON file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def _read(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            return content
        except FileNotFoundError:
            pass
        except ValueError as error:
            log.warning("%s: can't be read (%s); a new one is begun", self.path, error)
        return {"backups": [], "last_failure": None, "runs": {}}

    def generations(self, run: str) -> list[Generation]:
        """Return a run's generations, oldest first."""
        known = self._read()["runs"].get(run, ())
        try:
            return [Generation.model_validate_json(json.dumps(item)) for item in known]
        except ValueError as error:
            log.warning("%s: what it knows of %s is malformed: %s", self.path, run, error)
            return []

    def set_generations(self, run: str, generations: Iterable[Generation]) -> None:
        content = self._read()
        content["runs"][run] = [item.model_dump() for item in generations]
        write_json(content, self.path)

    def add_generation(self, run: str, generation: Generation) -> None:
        self.set_generations(run, [*self.generations(run), generation])

    def claim(self, run: str, hashes: set[str], remote: str) -> None:
        """Note before an upload what the remote does not have, so that a kill forgets nothing."""
        *earlier, newest = self.generations(run)
        uploaded = tuple(sorted({*newest.uploaded, *hashes.intersection(newest.own)}))
        newest = newest.model_copy(update={"uploaded": uploaded, "remote": remote})
        self.set_generations(run, [*earlier, newest])

    def mark_sent(self, run: str) -> None:
        *earlier, newest = self.generations(run)
        self.set_generations(run, [*earlier, newest.model_copy(update={"sent": True})])

    def add_backup(self, backup: dict[str, Any]) -> None:
        content = self._read()
        content["backups"] = [*content["backups"], {"at": _now(), **backup}][-KEPT_LINES:]
        write_json(content, self.path)

    def add_failure(self, reason: str) -> None:
        """Note a failure, without the addresses and paths of its message."""
        reason = _ADDRESS.sub("<path>", reason)
        write_json(self._read() | {"last_failure": {"at": _now(), "reason": reason}}, self.path)

    def last_backup(self) -> dict[str, Any] | None:
        """The newest that holds checkpoints."""
        states = [backup for backup in self._read()["backups"] if backup["epochs"] is not None]
        return states[-1] if states else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
