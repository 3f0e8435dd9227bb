"""Upload log `.dvc/tmp/backup.json`: backups, and the objects that each run may delete."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from multi_abnormality.backup.resume_commit import Generation
from multi_abnormality.utils.atomic_io import write_json
from multi_abnormality.utils.console import log

MAX_BACKUPS = 100  # entries in the list of backups


class UploadLog:
    """Upload log, read again at each use: training and its uploads write it in turns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _read(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            return content
        except FileNotFoundError:
            pass
        except ValueError as error:
            log.warning("%s: can't be read (%s); starting a new one", self.path, error)
        return {"backups": [], "runs": {}}

    def generations(self, run: str) -> list[Generation]:
        """Return a run's generations, oldest first."""
        known = self._read()["runs"].get(run, ())
        try:
            return [Generation.model_validate_json(json.dumps(item)) for item in known]
        except ValueError as error:
            log.warning("%s: the entry of %s is malformed: %s", self.path, run, error)
            return []

    def set_generations(self, run: str, generations: Iterable[Generation]) -> None:
        content = self._read()
        content["runs"][run] = [item.model_dump() for item in generations]
        write_json(content, self.path)

    def update_newest(self, run: str, **values: Any) -> None:
        """Change fields of a run's newest generation."""
        *earlier, newest = self.generations(run)
        self.set_generations(run, [*earlier, newest.model_copy(update=values)])

    def add_backup(self, backup: dict[str, Any]) -> None:
        content = self._read()
        content["backups"] = [
            *content["backups"],
            {"at": datetime.now(UTC).isoformat(timespec="seconds"), **backup},
        ][-MAX_BACKUPS:]
        write_json(content, self.path)

    def last_backup(self, run: str, remote: str) -> dict[str, Any] | None:
        """Return the newest backup of a run on a remote."""
        backups = [
            item for item in self._read()["backups"]
            if (item.get("run"), item.get("remote")) == (run, remote)
        ]  # fmt: skip
        return backups[-1] if backups else None
