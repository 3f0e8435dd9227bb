"""Cache of what headers said, from which an interrupted or later run of `index` continues.

It holds no names and no ids, but paths. A lost or damaged cache only costs time.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from multi_abnormality.tools.index.series_records import Contents
from multi_abnormality.utils.console import log

SAVE_SECONDS = 1.0


def cache_path(folder: Path) -> Path:
    """Return the file of a folder's cache: in the project, outside of DVC's outputs, or the user's.

    Args:
        folder: folder of the export.
    """
    name = f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]}.sqlite"
    if Path(".dvc").is_dir():
        return Path(".dvc/tmp/index", name)
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "multi-abnormality/index" / name


class HeaderCache:
    """Contents of files, by a digest of their paths, sizes and times, in an SQLite file.

    Args:
        path: the file; without a writable one, the cache is in memory.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                self._connection = self._open(path)
            except sqlite3.DatabaseError as error:
                log.warning("%s is damaged (%s): all headers are read again", path, error)
                path.unlink()
                self._connection = self._open(path)
        except (OSError, sqlite3.Error) as error:
            log.warning("%s: cannot be used (%s): an interrupted run starts again", path, error)
            self._connection = self._open(":memory:")
        self._saved_at = time.monotonic()

    @staticmethod
    def _open(path: Path | str) -> sqlite3.Connection:
        if isinstance(path, Path):  # its paths may name patients
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(path)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS contents (digest TEXT PRIMARY KEY, content TEXT)"
        )
        return connection

    def known(self, digests: Iterable[str]) -> set[str]:
        """Return those of the digests that the cache has."""
        query = "SELECT 1 FROM contents WHERE digest = ?"
        return {one for one in digests if self._connection.execute(query, (one,)).fetchone()}

    def add(self, digest: str, content: str) -> None:
        """Add the JSON of Contents; it is on the disk within a second, or when the cache closes."""
        self._connection.execute("INSERT OR REPLACE INTO contents VALUES (?, ?)", (digest, content))
        if time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        self._connection.commit()
        self._saved_at = time.monotonic()

    def read(self, digests: Iterable[str]) -> Iterator[Contents]:
        """Yield the contents of digests that the cache has."""
        query = "SELECT content FROM contents WHERE digest = ?"
        for digest in digests:
            if row := self._connection.execute(query, (digest,)).fetchone():
                yield Contents.from_json(row[0])

    def read_all(self) -> Iterator[Contents]:
        """Yield all contents."""
        for (content,) in self._connection.execute("SELECT content FROM contents"):
            yield Contents.from_json(content)

    def keep_only(self, digests: set[str]) -> None:
        """Forget files that are changed or deleted."""
        stored = self._connection.execute("SELECT digest FROM contents").fetchall()
        lost = [row for row in stored if row[0] not in digests]
        self._connection.executemany("DELETE FROM contents WHERE digest = ?", lost)
        self.save()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.save()
        self._connection.close()
