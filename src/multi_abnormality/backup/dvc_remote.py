"""DVC remote: objects and bundles, read and written through DVC's file systems."""

import hashlib
import json
import logging
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from fsspec.callbacks import Callback

if TYPE_CHECKING:
    from dvc.repo import Repo

BUNDLE_FOLDER = "resume"  # next to DVC's `files`
BUNDLE_SUFFIX = ".bundle"
RETRY_DELAYS = (0.5, 1.0, 2.0)  # s
STALE_UPLOAD_SECONDS = 24 * 3600  # age at which a partial upload counts as abandoned

_HASH = re.compile(r"[0-9a-f]{32}")

MAX_LIST_BYTES = 64 << 20  # of a folder's list, about 700,000 files

T = TypeVar("T")


def digest_of(file: Path) -> str:
    """Return a file's MD5, which is the name of its DVC object."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unsafe_name(content: bytes) -> str | None:
    """Return the first path in a folder's list that is invalid or outside the folder, or None."""
    try:
        entries = json.loads(content)
        if not isinstance(entries, list):
            raise TypeError
        names = [(entry["relpath"], entry["md5"]) for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "(not a list of files)"
    for name, hash_ in names:
        if not isinstance(name, str) or not isinstance(hash_, str):
            return str(name)
        parts = name.split("/")
        if {"", ".", ".."} & set(parts) or "\\" in name or "\0" in name or ".git" in parts:
            return name
        if not _HASH.fullmatch(hash_):
            return name
    return None


class RemoteError(Exception):
    """A request to the remote failed; the message contains the remote's error."""


def _retry(call: Callable[[], T]) -> T:
    """Retry after errors that may be transient, such as a lost connection."""
    for delay in RETRY_DELAYS:
        try:
            return call()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            raise
        except Exception:  # any exception of a file system; the last one is raised
            time.sleep(delay)
    return call()


class _ProgressCallback(Callback):  # type: ignore[misc]  # fsspec has no types
    """Reports progress, including that of files uploaded in parallel."""

    def __init__(self, on_progress: Callable[[], None]) -> None:
        super().__init__()
        self._on_progress = on_progress

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        self._on_progress()

    def branched(self, path_1: object, path_2: object, **kwargs: object) -> "_ProgressCallback":  # noqa: ARG002
        return _ProgressCallback(self._on_progress)


class _ErrorCapture(logging.Handler):
    """Captures the first upload error, which DVC only logs."""

    reason: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.reason is None and record.exc_info:
            self.reason = record.exc_info[1]


class Remote:
    """A DVC remote.

    Args:
        repo: DVC repository.
        name: name of the remote; None for the default remote.

    Raises:
        DvcException: the remote does not exist, or its settings are invalid.
    """

    def __init__(self, repo: "Repo", name: str | None) -> None:
        self.odb = repo.cloud.get_remote_odb(name, "push")
        self.cache = repo.cache.local
        remote = repo.cloud.get_remote(name)
        self.fs, self.path = remote.fs, remote.path
        self.url = self.fs.unstrip_protocol(self.path)
        self.name = remote.name
        # Identifies the remote in files that must not contain its address.
        self.id = hashlib.sha256(self.url.encode()).hexdigest()[:16]

    def close(self) -> None:
        """Drop cached connections, logins and folder listings."""
        type(self.fs.fs).clear_instance_cache()

    def probe(self) -> None:
        """Check write access: write a small file and delete it."""
        self._check_folder(Path(self.path).parent)
        path = self._bundle_path(f"probe-{uuid.uuid4().hex}")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "probe"
            file.write_bytes(b"probe")
            _retry(lambda: self._put(file, path))
        _retry(lambda: self.fs.remove(path))

    def _check_folder(self, folder: Path) -> None:
        if self.fs.protocol == "local" and not folder.is_dir():
            raise RemoteError(f"the folder {folder} does not exist (is its disk mounted?)")

    def push(
        self,
        hashes: Iterable[str],
        claim: Callable[[set[str]], None],
        on_progress: Callable[[], None],
    ) -> int:
        """Upload the objects that the remote lacks.

        Args:
            hashes: objects in the cache; a folder's files must be listed together with the folder.
            claim: called with the hashes to upload, before the upload.
            on_progress: called as bytes are uploaded.

        Returns:
            Number of bytes uploaded.

        Raises:
            RemoteError: an upload failed; objects that were uploaded stay on the remote.
        """
        from dvc_data.hashfile.db import get_index
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.status import CompareStatusResult
        from dvc_data.hashfile.transfer import transfer

        def check(status: CompareStatusResult) -> None:
            if status.missing:
                raise RemoteError(
                    f"{len(status.missing)} objects are neither in the cache nor on the remote"
                )
            new.update(info.value for info in status.new if info.value)
            self._check_free_space(new)
            claim(new)

        start, new = time.time(), set[str]()
        first, logger = _ErrorCapture(), logging.getLogger("dvc_data")
        logger.addHandler(first)
        infos = {HashInfo("md5", hash_) for hash_ in hashes}
        try:
            with closing(get_index(self.odb)) as index:
                sent, failed = transfer(
                    self.cache, self.odb, infos, dest_index=index, cache_odb=self.cache,
                    validate_status=check, callback=_ProgressCallback(on_progress),
                )  # fmt: skip
        finally:
            logger.removeHandler(first)
        if failed:
            self._remove_partial_uploads(new, start)
            raise RemoteError(f"{len(failed)} files could not be uploaded: {first.reason}")
        return sum(Path(self.cache.oid_to_path(info.value)).stat().st_size for info in sent)

    def _check_free_space(self, hashes: set[str]) -> None:
        """Fail before an upload that does not fit: DVC would leave partial copies in the folder."""
        folder = Path(self.path)
        if self.fs.protocol != "local" or not folder.is_dir():
            return
        size = sum(Path(self.cache.oid_to_path(hash_)).stat().st_size for hash_ in hashes)
        free = shutil.disk_usage(folder).free
        if size > free:
            raise RemoteError(
                f"{size / 1e6:.0f} MB to upload, but only {free / 1e6:.0f} MB free on the disk"
            )

    def _remove_partial_uploads(self, hashes: set[str], start: float) -> None:
        """Remove temporary files of a failed push; each retry would leave more."""
        if self.fs.protocol != "local":
            return
        for folder in {Path(self.odb.oid_to_path(hash_)).parent for hash_ in hashes}:
            for file in folder.glob(".*.tmp"):
                with suppress(FileNotFoundError):
                    if file.stat().st_mtime >= start - 1:
                        file.unlink()

    def fetch(self, hashes: Iterable[str]) -> dict[str, str]:
        """Copy objects into the cache and verify their content against their hashes.

        Returns:
            Error text by hash, such as "is damaged on the remote", for each object that is not in
            the cache afterwards.

        Raises:
            Exception: the file system's own, if the remote can't be read.
        """
        missing = [hash_ for hash_ in sorted(hashes) if not self.cache.exists(hash_)]
        paths = {hash_: self.odb.oid_to_path(hash_) for hash_ in missing}
        error_texts = {
            hash_: "is not a regular file on the remote"
            for hash_ in missing if not self._is_regular(paths[hash_])
        }  # fmt: skip
        missing = [hash_ for hash_ in missing if hash_ not in error_texts]
        errors: dict[str, BaseException] = {}
        for _ in range(2):  # a lost connection damages a copy, too
            if not missing:
                return error_texts
            errors.clear()
            self.cache.add(
                [paths[hash_] for hash_ in missing], self.odb.fs, missing, verify=True,
                check_exists=False, batch_size=self.odb.fs.jobs, on_error=errors.__setitem__,
            )  # fmt: skip
            missing = [hash_ for hash_ in missing if not self.cache.exists(hash_)]
        for hash_ in missing:
            error = errors.get(hash_)
            if error is None:
                error_texts[hash_] = f"is damaged on the remote ({paths[hash_]})"
            elif isinstance(error, FileNotFoundError):
                error_texts[hash_] = "is not on the remote"
            else:
                raise error
        return error_texts

    def _is_regular(self, path: str) -> bool:
        """Whether a path is a regular file or missing, not a link, pipe or device."""
        if self.fs.protocol != "local":
            return True
        try:
            return stat.S_ISREG(Path(path).lstat().st_mode)
        except FileNotFoundError:
            return True

    def remove_damaged(self, hashes: Iterable[str], folder: str) -> bool:
        """Delete damaged objects from a folder remote, so that the next push uploads them again.

        DVC checks only whether an object of that name exists. The list of the objects' folder is
        deleted as well: if it exists, DVC assumes that the folder's files do.

        Returns:
            Whether any object was deleted.
        """
        if self.fs.protocol != "local":
            return False
        damaged = []
        for hash_ in hashes:
            file = Path(self.odb.oid_to_path(hash_))
            with suppress(OSError):
                if not self._is_regular(str(file)) or digest_of(file) != hash_[:32]:
                    file.unlink()
                    damaged.append(hash_)
        if damaged:
            with suppress(OSError):
                Path(self.odb.oid_to_path(folder)).unlink()
            self.clear_index()
        return bool(damaged)

    def unsafe_folders(self, hashes: Iterable[str]) -> dict[str, str]:
        """Return the folder lists that contain a path outside the folder, with that path.

        They are deleted from the cache, since `dvc pull` would write to these paths.
        """
        found = {}
        for hash_ in hashes:
            path = Path(self.cache.oid_to_path(hash_))
            if not path.exists():
                continue
            too_long = path.stat().st_size > MAX_LIST_BYTES
            name = "(too many files)" if too_long else _unsafe_name(path.read_bytes())
            if name is not None:
                path.unlink()
                found[hash_] = name
        return found

    def files_of(self, folder: str) -> dict[str, str]:
        """Return the paths in a folder's list in the cache, by object hash."""
        entries = json.loads(Path(self.cache.oid_to_path(folder)).read_bytes())
        return {entry["md5"]: entry["relpath"] for entry in entries}

    def bundle_size(self, name: str) -> int:
        """Return a bundle's size in bytes."""
        return int(_retry(lambda: self.fs.size(self._bundle_path(name))) or 0)

    def missing_objects(self, hashes: Iterable[str]) -> set[str]:
        """Return the objects that the remote lacks, without using DVC's index."""
        requested = set(hashes)
        return requested - _retry(lambda: set(self.odb.list_oids_exists(requested)))

    def delete(self, hashes: Iterable[str]) -> None:
        """Delete objects, folders first, so that no folder remains without its files."""
        for hash_ in sorted(hashes, key=lambda name: not name.endswith(".dir")):
            self.fs.remove(self.odb.oid_to_path(hash_))

    def remove_stale_uploads(self) -> None:
        """Delete temporary files of killed uploads from a folder remote.

        Other remotes never show partial files.
        """
        if self.fs.protocol != "local":
            return
        for folder in (self.odb.path, self._bundle_path("")):
            for file in Path(folder).rglob(".*.tmp"):
                with suppress(FileNotFoundError):  # completed, or deleted by another machine
                    if time.time() - file.stat().st_mtime > STALE_UPLOAD_SECONDS:
                        file.unlink()

    def clear_index(self) -> None:
        """Clear DVC's local index of this remote, which a later push would trust."""
        from dvc_data.hashfile.db import get_index

        with closing(get_index(self.odb)) as index:
            index.clear()

    def bundles(self, branch: str | None = None) -> list[str]:
        """Return the names of a branch's bundles, or of all: <branch>/<run>/<name>.bundle.

        Raises:
            RemoteError: the remote is a folder that does not exist.
        """
        self._check_folder(Path(self.path))
        folder = self._bundle_path(branch or "")
        if not _retry(lambda: self.fs.exists(folder)):
            return []
        names = (self._name(path) for path in _retry(lambda: list(self.fs.find(folder))))
        bundles = [name for name in names if name.endswith(BUNDLE_SUFFIX)]
        if branch is not None:
            bundles = [name for name in bundles if str(PurePosixPath(name).parents[1]) == branch]
        return sorted(bundles)

    def put_bundle(self, file: Path, name: str) -> None:
        """Upload a bundle under a unique name; bundles are never overwritten."""
        _retry(lambda: self._put(file, self._bundle_path(name)))

    def get_bundle(self, name: str, file: Path) -> None:
        if not self._is_regular(self._bundle_path(name)):
            raise RemoteError("it is not a regular file")
        _retry(lambda: self.fs.get_file(self._bundle_path(name), str(file)))

    def delete_bundle(self, name: str) -> None:
        self.fs.remove(self._bundle_path(name))

    def _put(self, file: Path, path: str) -> None:
        self.fs.makedirs(self.fs.parent(path))
        self.fs.put_file(str(file), path)

    def _bundle_path(self, name: str) -> str:
        parts = [part for part in name.split("/") if part]
        path: str = self.fs.join(self.path, BUNDLE_FOLDER, *parts)
        return path

    def _name(self, path: str) -> str:
        return "/".join(self.fs.parts(path)[len(self.fs.parts(self._bundle_path(""))) :])
