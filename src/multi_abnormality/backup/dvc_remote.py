"""DVC remote: objects and bundles, read and written through DVC's file systems."""

import hashlib
import json
import logging
import os
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

from multi_abnormality.utils.errors import plural

if TYPE_CHECKING:
    from dvc.repo import Repo

BUNDLE_FOLDER = "resume"  # next to DVC's `files`
BUNDLE_SUFFIX = ".bundle"
RETRY_DELAYS = (0.5, 1.0, 2.0)  # s
STALE_UPLOAD_SECONDS = 24 * 3600  # age at which a partial upload counts as abandoned
MAX_LIST_BYTES = 64 << 20  # of a folder's list, about 700,000 files

_HASH = re.compile(r"[0-9a-f]{32}")

T = TypeVar("T")


class RemoteError(Exception):
    """A request to the remote failed; the message contains the remote's error."""


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
        parts = set(name.split("/"))
        is_outside = {"", ".", "..", ".git"} & parts or "\\" in name or "\0" in name
        if is_outside or not _HASH.fullmatch(hash_):
            return name
    return None


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
        self.repo = repo
        self.odb = repo.cloud.get_remote_odb(name, "push")
        self.cache = repo.cache.local
        remote = repo.cloud.get_remote(name)
        self.fs, self.path = remote.fs, remote.path
        self.url = self.fs.unstrip_protocol(self.path)
        self.name = remote.name
        self.is_folder = self.fs.protocol == "local"
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
        if self.is_folder and not folder.is_dir():
            raise RemoteError(f"the folder {folder} does not exist (is its disk mounted?)")

    def push(self, commit: str | None, targets: Iterable[str], new: set[str]) -> int:
        """Run `dvc push` for a commit's dvc.lock.

        A repository that is read from a commit needs no lock, so that a push which hangs does not
        block other DVC commands.

        Args:
            commit: hash of the commit; None for the work tree, without a Git repository.

        Returns:
            Number of bytes uploaded.

        Raises:
            RemoteError: an upload failed; objects that were uploaded stay on the remote.
        """
        from dvc.exceptions import DvcException

        size = self._check_new(new)
        repo, start = self._repository_at(commit), time.time()
        repo.drop_data_index()  # a killed push leaves a part of its list, which DVC would reuse
        paths = [repo.fs.join(repo.root_dir, target) for target in targets]
        first, logger = _ErrorCapture(), logging.getLogger("dvc_data")
        logger.addHandler(first)
        try:
            repo.push(targets=paths, remote=self.name)
        except DvcException as error:
            self._remove_partial_uploads(new, start)
            raise RemoteError(f"{error}: {first.reason}") from error
        finally:
            logger.removeHandler(first)
        return size

    def _repository_at(self, commit: str | None) -> "Repo":
        """Return the repository as of a commit, with this work tree's configuration."""
        from dvc.fs import GitFileSystem
        from dvc.repo import Repo

        if commit is None:
            return self.repo
        below = os.path.relpath(self.repo.root_dir, self.repo.scm.root_dir)
        root = "/" if below == "." else f"/{Path(below).as_posix()}"
        config = {key: self.repo.config[key] for key in ("core", "cache", "remote")}
        fs = GitFileSystem(scm=self.repo.scm, rev=commit)
        return Repo(root, fs=fs, scm=self.repo.scm, config=config)

    def _check_new(self, new: set[str]) -> int:
        """Return the size of new objects; DVC skips missing ones, and fills a disk with copies."""
        files = [Path(self.cache.oid_to_path(hash_)) for hash_ in new]
        if missing := [file for file in files if not file.exists()]:
            raise RemoteError(
                f"{plural(len(missing), 'object is', 'objects are')} neither in the cache nor on "
                "the remote"
            )
        size = sum(file.stat().st_size for file in files)
        if self.is_folder and Path(self.path).is_dir():
            free = shutil.disk_usage(self.path).free
            if size > free:
                raise RemoteError(
                    f"{size / 1e6:.0f} MB to upload, but only {free / 1e6:.0f} MB free on the disk"
                )
        return size

    def _remove_partial_uploads(self, hashes: set[str], start: float) -> None:
        """Remove temporary files of a failed push; each retry would leave more."""
        if self.is_folder:
            for folder in {Path(self.odb.oid_to_path(hash_)).parent for hash_ in hashes}:
                _remove_files(folder.glob(".*.tmp"), lambda changed: changed >= start - 1)

    def remove_stale_uploads(self) -> None:
        """Delete temporary files of killed uploads from a folder remote.

        Other remotes never show partial files.
        """
        limit = time.time() - STALE_UPLOAD_SECONDS
        if self.is_folder:
            for folder in (self.odb.path, self._bundle_path("")):
                _remove_files(Path(folder).rglob(".*.tmp"), lambda changed: changed < limit)

    def fetch(self, hashes: Iterable[str]) -> dict[str, str]:
        """Copy objects into the cache and verify their content against their hashes.

        Returns:
            Error text by hash, such as "is damaged on the remote", for each object that is not in
            the cache afterwards.

        Raises:
            Exception: the file system's own, if the remote can't be read.
        """
        paths = {
            hash_: self.odb.oid_to_path(hash_)
            for hash_ in sorted(hashes) if not self.cache.exists(hash_)
        }  # fmt: skip
        error_texts = {
            hash_: "is not a regular file on the remote"
            for hash_, path in paths.items() if not self._is_regular(path)
        }  # fmt: skip
        missing = [hash_ for hash_ in paths if hash_ not in error_texts]
        errors: dict[str, BaseException] = {}
        for _ in range(2):  # a lost connection damages a copy, too
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
        if not self.is_folder:
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
        if not self.is_folder:
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
            self._clear_index()
        return bool(damaged)

    def unsafe_folders(self, hashes: Iterable[str]) -> dict[str, str]:
        """Return the folder lists that contain a path outside the folder, with that path.

        They are deleted from the cache, since `dvc pull` would write to these paths.
        """
        found = {}
        for path in (Path(self.cache.oid_to_path(hash_)) for hash_ in hashes):
            if not path.exists():
                continue
            too_long = path.stat().st_size > MAX_LIST_BYTES
            name = "(too many files)" if too_long else _unsafe_name(path.read_bytes())
            if name is not None:
                path.unlink()
                found[f"{path.parent.name}{path.name}"] = name
        return found

    def files_of(self, folder: str) -> dict[str, str]:
        """Return the paths in a folder's list, by object hash; empty if the list is lost."""
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.tree import Tree

        for odb in (self.cache, self.odb):
            if odb.exists(folder):
                tree = Tree.load(odb, HashInfo("md5", folder))
                return {info.value: "/".join(key) for key, _, info in tree}
        return {}

    def missing_objects(self, hashes: Iterable[str]) -> set[str]:
        """Return the objects that the remote lacks, without using DVC's index."""
        requested = set(hashes)
        return requested - _retry(lambda: set(self.odb.list_oids_exists(requested)))

    def delete(self, hashes: Iterable[str]) -> None:
        """Delete objects, folders first, so that no folder remains without its files.

        DVC's index is cleared before and after, so that a concurrent push trusts no stale entries.
        """
        if not hashes:
            return
        self._clear_index()
        for hash_ in sorted(hashes, key=lambda name: not name.endswith(".dir")):
            self.fs.remove(self.odb.oid_to_path(hash_))
        self._clear_index()

    def _clear_index(self) -> None:
        from dvc_data.hashfile.db import get_index

        with closing(get_index(self.odb)) as index:
            index.clear()

    def bundles(self, branch: str | None = None) -> list[str]:
        """Return the names of a branch's bundles, or of all: <branch>/<run>/<name>.bundle."""
        self._check_folder(Path(self.path))
        folder = self._bundle_path(branch or "")
        if not _retry(lambda: self.fs.exists(folder)):
            return []
        start = len(self.fs.parts(self._bundle_path("")))
        names = ("/".join(self.fs.parts(path)[start:])
                 for path in _retry(lambda: list(self.fs.find(folder))))  # fmt: skip
        bundles = [name for name in names if name.endswith(BUNDLE_SUFFIX)]
        if branch is not None:
            bundles = [name for name in bundles if str(PurePosixPath(name).parents[1]) == branch]
        return sorted(bundles)

    def bundle_size(self, name: str) -> int:
        """Return a bundle's size in bytes."""
        return int(_retry(lambda: self.fs.size(self._bundle_path(name))) or 0)

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


def _remove_files(files: Iterable[Path], is_removed: Callable[[float], bool]) -> None:
    """Remove files selected by the time of their last change."""
    for file in files:
        with suppress(FileNotFoundError):  # completed, or deleted by another machine
            if is_removed(file.stat().st_mtime):
                file.unlink()
