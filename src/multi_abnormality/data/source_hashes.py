"""Hashes of source files, remembered from run to run.

Hashing 50,000 scans takes hours, and most runs change a few of them. As in DVC's own state, a hash
is good as long as the file's size, times and inode are what they were. Forgetting costs time and
nothing else, so a damaged memory is dropped.
"""

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from multi_abnormality.data.io.byte_streams import open_regular_file
from multi_abnormality.data.io.reader_registry import suffix_of
from multi_abnormality.data.io.scan_sources import resolve_scan
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
        """Size of all files that a scan may consist of, and the latest change of any of them.

        Of DICOM files that is their whole folder: so no header is parsed.

        Raises:
            UnusableScan: a header that should name the file with the voxels is damaged.
            OSError: the path cannot be read.
        """
        itself = path.stat()
        if path.is_dir():
            files, folders = _below(path)
        elif _is_series_file(path):
            files, folders = [one for one in path.parent.iterdir() if one.is_file()], [path.parent]
        else:
            files, folders = _files_of(path), []
        about = [file.stat() for file in files]
        changed = [itself, *about, *(folder.stat() for folder in folders)]
        return cls(
            sum(file.st_size for file in about),
            max(one.st_mtime_ns for one in changed),
            max(one.st_ctime_ns for one in changed),
            itself.st_ino,
        )


class Hashed(NamedTuple):
    """A file's or folder's hash, and the stamp it holds for; None where that proves nothing."""

    sha256: str
    stamp: Stamp | None


def hash_source(path: Path) -> Hashed:
    """Read and hash the file or the files of a scan, whatever their names.

    Of a folder these are all files in it and below; of one DICOM file those of its series; of a
    header that names another file, both.

    Raises:
        InputError: it cannot be read; UnusableScan where no scan is there.
    """
    try:
        before = Stamp.of(path)
        started_ns = time.time_ns()
        files = _below(path)[0] if path.is_dir() else _files_of(path)
        hashes = sorted(map(_sha256, files))
        is_single = not path.is_dir() and len(hashes) == 1
        joined = "\n".join(hashes)
        sha256 = joined if is_single else hashlib.sha256(joined.encode()).hexdigest()
        # One more write within the clock's step would leave the stamp as it is.
        settled = started_ns - before.mtime_ns > UNSETTLED_NS and Stamp.of(path) == before
    except OSError as error:
        name = error.filename or path
        raise InputError(f"{name}: cannot be read ({error.strerror}); fetch it again") from None
    return Hashed(sha256, before if settled else None)


def _sha256(path: Path) -> str:
    with open_regular_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_series_file(path: Path) -> bool:
    """Whether a file may be one of a DICOM series, which has no suffix that others have."""
    return not suffix_of(path) and path.suffix.lower() != ".zip"


def _files_of(path: Path) -> list[Path]:
    """The files that the voxels of a scan depend on, as far as they are there."""
    if suffix_of(path) in (".nii", ".nii.gz") or path.suffix.lower() == ".zip":
        return [path]  # nothing is to be looked up
    return [file for file in resolve_scan(path).files if file == path or file.exists()]


def _below(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files and folders in a folder, at every level; hidden ones are no part of a series."""
    files, folders = [], []
    for place, inner, names in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if name[0] != "."]
        folders.append(Path(place))
        files += [
            path for name in names if name[0] != "." and (path := Path(place, name)).is_file()
        ]
    return files, folders


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
        except (OSError, InputError):  # whoever reads it next says what is wrong
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
