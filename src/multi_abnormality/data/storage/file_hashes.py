"""Persistent cache of the source files' hashes.

Hashing 50,000 scans takes hours, and most runs change only a few. As in DVC's state database, a
hash is valid while the file's size, times and inode are unchanged. A lost cache only costs time,
so a damaged one is discarded.
"""

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import NamedTuple, Self

from multi_abnormality.data.io.byte_streams import open_regular_file
from multi_abnormality.data.io.reader_registry import suffix_of
from multi_abnormality.data.io.scan_sources import resolve_scan, walk
from multi_abnormality.utils.atomic_io import atomic_write
from multi_abnormality.utils.errors import InputError

log = logging.getLogger(__name__)

UNSETTLED_NS = 2_000_000_000  # resolution of the coarsest file system clock, FAT's
SAVE_SECONDS = 60.0


class FileStat(NamedTuple):
    """File attributes that change when the content does."""

    size: int
    mtime_ns: int
    ctime_ns: int  # cannot be set back, as a copied mtime can
    inode: int

    @classmethod
    def of(cls, path: Path) -> "FileStat":
        """Return the total size and latest change of all files that a scan may consist of.

        For a DICOM file this is its whole folder, so that no header has to be parsed.

        Raises:
            UnusableScan: a header that should name the file with the voxels is damaged.
            OSError: the path cannot be read.
        """
        itself = path.stat()
        folders: list[Path] = []
        if path.is_dir():
            files, folders = _list_recursively(path)
        elif suffix_of(path) or path.suffix.lower() == ".zip":
            files = _files_of(path)
        else:  # of a DICOM series
            files, folders = [one for one in path.parent.iterdir() if one.is_file()], [path.parent]
        stats = [file.stat() for file in files]
        changed = [itself, *stats, *(folder.stat() for folder in folders)]
        return cls(
            sum(file.st_size for file in stats),
            max(one.st_mtime_ns for one in changed),
            max(one.st_ctime_ns for one in changed),
            itself.st_ino,
        )


class HashEntry(NamedTuple):
    """Hash of a file or folder, and the stat that it is valid for; None if not to be cached."""

    sha256: str
    stat: FileStat | None


def hash_scan(path: Path) -> HashEntry:
    """Hash the content of all files of a scan, ignoring their names.

    For a folder these are all files at any depth; for a DICOM file those of its series; for a
    header with a separate voxel file, both.

    Raises:
        InputError: a file cannot be read; UnusableScan if there is no scan.
    """
    try:
        before = FileStat.of(path)
        started_ns = time.time_ns()
        files = _list_recursively(path)[0] if path.is_dir() else _files_of(path)
        hashes = sorted(map(_sha256, files))
        is_single = not path.is_dir() and len(hashes) == 1
        joined = hashlib.sha256("\n".join(hashes).encode()).hexdigest()
        sha256 = hashes[0] if is_single else joined
        # Another write within the clock's resolution would leave the stat unchanged.
        settled = started_ns - before.mtime_ns > UNSETTLED_NS and FileStat.of(path) == before
    except OSError as error:
        name = error.filename or path
        raise InputError(f"{name}: cannot be read ({error.strerror}); fetch it again") from None
    return HashEntry(sha256, before if settled else None)


def _sha256(path: Path) -> str:
    with open_regular_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_of(path: Path) -> list[Path]:
    """Return the existing files that the voxels of a scan depend on."""
    if suffix_of(path) in (".nii", ".nii.gz") or path.suffix.lower() == ".zip":
        return [path]
    return [file for file in resolve_scan(path).files if file == path or file.exists()]


def _list_recursively(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files and folders below a folder, at every level, except hidden ones."""
    files, folders = [], []
    for parent, _, names in walk(folder):
        folders.append(parent)
        files += [path for name in names if (path := parent / name).is_file()]
    return files, folders


class FileHashCache:
    """Cache of hashes in a JSON file outside of every DVC output. For one process at a time.

    As a context manager it is saved on exit, and every minute before.

    Args:
        file: path of the JSON file; None keeps the cache in memory only.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._entries = _read(file) if file else {}
        self._changed = False
        self._saved_at = time.monotonic()

    def known(self, path: Path) -> str | None:
        """Return the cached hash of a file if its stat is unchanged."""
        entry = self._entries.get(str(path.absolute()))
        if entry is None:
            return None
        try:
            return entry.sha256 if FileStat.of(path) == entry.stat else None
        except (OSError, InputError):  # reported when the file is read
            return None

    def note(self, path: Path, hashed: HashEntry) -> None:
        """Cache a result of hash_scan, which may have run in another process."""
        if hashed.stat is None:
            return
        self._entries[str(path.absolute())] = hashed
        self._changed = True
        if time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the cache to its file.

        Raises:
            InputError: the disk is full; the previous file is left intact.
        """
        if self._file and self._changed:
            content = {
                path: [*entry.stat, entry.sha256]
                for path, entry in self._entries.items()
                if entry.stat is not None
            }
            atomic_write(json.dumps(content, separators=(",", ":")).encode(), self._file)
        self._changed = False
        self._saved_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.save()


def _read(file: Path) -> dict[str, HashEntry]:
    try:
        content = json.loads(file.read_bytes())
        return {
            path: HashEntry(sha256, FileStat(*map(int, stat)))
            for path, (*stat, sha256) in content.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.warning("%s is damaged (%s): all scans are hashed again", file, error)
        return {}
