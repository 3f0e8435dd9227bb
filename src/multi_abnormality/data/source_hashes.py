"""Hashes of source files, remembered from run to run.

Hashing 50,000 scans takes hours, and most runs change a few of them. As in DVC's own state, a hash
is good as long as the file's size, times and inode are what they were. Forgetting costs time and
nothing else, so a damaged memory is dropped.
"""

import hashlib
import json
import logging
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from multi_abnormality.errors import InputError
from multi_abnormality.files import write_durably

log = logging.getLogger(__name__)

UNSETTLED_NS = 2_000_000_000  # the coarsest clock of a file system, FAT's
SAVE_SECONDS = 60.0


class Stamp(NamedTuple):
    """What of a file changes when its content does."""

    size: int
    mtime_ns: int
    ctime_ns: int  # cannot be set back, as a copied mtime can
    inode: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """Of a file; or of a folder: its files' size, and the latest change of any, or of itself"""
        folder = path.stat()
        files = [file.stat() for file in _files(path)] if path.is_dir() else [folder]
        return cls(
            sum(file.st_size for file in files),
            max(file.st_mtime_ns for file in (folder, *files)),
            max(file.st_ctime_ns for file in (folder, *files)),
            folder.st_ino,
        )


class Hashed(NamedTuple):
    """A file's or folder's hash, and the stamp it holds for; None where that proves nothing."""

    sha256: str
    stamp: Stamp | None


def hash_source(path: Path) -> Hashed:
    """Read and hash a file, or all files of a folder, whatever their names.

    Raises:
        InputError: it cannot be read.
    """
    try:
        before = Stamp.of(path)
        started_ns = time.time_ns()
        if path.is_dir():
            content = sorted(map(_sha256, _files(path)))
            sha256 = hashlib.sha256("\n".join(content).encode()).hexdigest()
        else:
            sha256 = _sha256(path)
        # One more write within the clock's step would leave the stamp as it is.
        settled = started_ns - before.mtime_ns > UNSETTLED_NS and Stamp.of(path) == before
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fetch it again") from None
    return Hashed(sha256, before if settled else None)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    """That a DICOM series may consist of."""
    return [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]


class SourceHashes:
    """The memory, a JSON file outside of every DVC output. For one process at a time.

    Used in a `with`, it is saved at the end of it, and every minute meanwhile.

    Args:
        file: of the memory; None: it ends with the process.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._entries = _read(file) if file else {}
        self._changed = False
        self._saved_at = time.monotonic()

    def known(self, path: Path) -> str | None:
        """The file's hash, if it was remembered and nothing of its stamp differs."""
        entry = self._entries.get(str(path.absolute()))
        if entry is None:
            return None
        try:
            return entry.sha256 if Stamp.of(path) == entry.stamp else None
        except OSError:  # whoever reads it next says what is wrong
            return None

    def note(self, path: Path, hashed: Hashed) -> None:
        """Remember what hash_source found, perhaps in another process."""
        if hashed.stamp is None:
            return
        self._entries[str(path.absolute())] = hashed
        self._changed = True
        if time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Raises InputError where the disk is full; the old memory is whole then."""
        if self._file and self._changed:
            content = {
                path: [*entry.stamp, entry.sha256]
                for path, entry in self._entries.items()
                if entry.stamp is not None
            }
            write_durably(json.dumps(content, separators=(",", ":")).encode(), self._file)
        self._changed = False
        self._saved_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.save()


def _read(file: Path) -> dict[str, Hashed]:
    try:
        content = json.loads(file.read_bytes())
        return {
            path: Hashed(sha256, Stamp(*map(int, stamp)))
            for path, (*stamp, sha256) in content.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.warning("%s is damaged (%s): all scans are hashed again", file, error)
        return {}
