"""DVC's remote: objects and bundles, through DVC's own file system for it."""

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

FOLDER = "resume"  # beside DVC's own `files`
SUFFIX = ".bundle"
PAUSES = (0.5, 1.0, 2.0)  # s between the tries of one question
ABANDONED = 24 * 3600  # s after which an upload to a folder that has not ended never will

_HASH = re.compile(r"[0-9a-f]{32}")

MAX_LIST_BYTES = 64 << 20  # of a folder's list of files: some 700,000 of them

T = TypeVar("T")


def digest_of(file: Path) -> str:
    """Return a file's MD5, by which DVC names objects."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unsafe_name(content: bytes) -> str | None:
    """Return the first path in a folder's list that leaves the folder, or is no path at all."""
    try:
        entries = json.loads(content)
        if not isinstance(entries, list):
            raise TypeError
        names = [(entry["relpath"], entry["md5"]) for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "(no list of files)"
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
    """The remote does not do what was asked; the message says what it said."""


def _patiently(ask: Callable[[], T]) -> T:
    """Ask again after a fault that may pass: a cut connection, or an answer cut short."""
    for pause in PAUSES:
        try:
            return ask()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            raise
        except Exception:  # any file system's own; the last one is raised
            time.sleep(pause)
    return ask()


class _Beats(Callback):  # type: ignore[misc]  # fsspec has no types
    """Tells that bytes move, also those of files that are sent side by side."""

    def __init__(self, beat: Callable[[], None]) -> None:
        super().__init__()
        self._beat = beat

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        self._beat()

    def branched(self, path_1: object, path_2: object, **kwargs: object) -> "_Beats":  # noqa: ARG002
        return _Beats(self._beat)


class _FirstError(logging.Handler):
    """Keeps why the first object failed: DVC only logs it."""

    reason: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.reason is None and record.exc_info:
            self.reason = record.exc_info[1]


class Remote:
    """One remote.

    Args:
        repo: DVC's repository.
        name: of the remote; None for DVC's default one.

    Raises:
        DvcException: there is no such remote, or its settings are wrong.
    """

    def __init__(self, repo: "Repo", name: str | None) -> None:
        self.odb = repo.cloud.get_remote_odb(name, "push")
        self.cache = repo.cache.local
        remote = repo.cloud.get_remote(name)
        self.fs, self.path = remote.fs, remote.path
        self.url = self.fs.unstrip_protocol(self.path)
        self.name = remote.name
        # Tells remotes from each other in files that must not hold an address.
        self.id = hashlib.sha256(self.url.encode()).hexdigest()[:16]

    def close(self) -> None:
        """Forget connections, log-ins and folders that were looked up: a later use asks anew."""
        type(self.fs.fs).clear_instance_cache()

    def probe(self) -> None:
        """Write a small file and take it away again."""
        self._check_folder(Path(self.path).parent)
        place = self._place(f"probe-{uuid.uuid4().hex}")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "probe"
            file.write_bytes(b"probe")
            _patiently(lambda: self._put(file, place))
        _patiently(lambda: self.fs.remove(place))

    def _check_folder(self, folder: Path) -> None:
        if self.fs.protocol == "local" and not folder.is_dir():
            raise RemoteError(f"the folder {folder} is not there (is its disk mounted?)")

    def push(
        self, hashes: Iterable[str], claim: Callable[[set[str]], None], beat: Callable[[], None]
    ) -> int:
        """Send what the remote does not have.

        Args:
            hashes: of objects in the cache; all of a folder's along with its own.
            claim: is told what will be sent before it is.
            beat: is called as bytes move.

        Returns:
            Bytes sent.

        Raises:
            RemoteError: something could not be sent; what was, stays.
        """
        from dvc_data.hashfile.db import get_index
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.status import CompareStatusResult
        from dvc_data.hashfile.transfer import transfer

        def check(status: CompareStatusResult) -> None:
            if status.missing:
                raise RemoteError(f"{len(status.missing)} objects are in no cache and no remote")
            new.update(info.value for info in status.new if info.value)
            self._check_room(new)
            claim(new)

        start, new = time.time(), set[str]()
        first, logger = _FirstError(), logging.getLogger("dvc_data")
        logger.addHandler(first)
        infos = {HashInfo("md5", hash_) for hash_ in hashes}
        try:
            with closing(get_index(self.odb)) as index:
                sent, failed = transfer(
                    self.cache, self.odb, infos, dest_index=index, cache_odb=self.cache,
                    validate_status=check, callback=_Beats(beat),
                )  # fmt: skip
        finally:
            logger.removeHandler(first)
        if failed:
            self._remove_partial_uploads(new, start)
            raise RemoteError(f"{len(failed)} files could not be sent: {first.reason}")
        return sum(Path(self.cache.oid_to_path(info.value)).stat().st_size for info in sent)

    def _check_room(self, hashes: set[str]) -> None:
        """Refuse before the first byte what a folder has no room for: DVC leaves what it copied."""
        folder = Path(self.path)
        if self.fs.protocol != "local" or not folder.is_dir():
            return
        size = sum(Path(self.cache.oid_to_path(hash_)).stat().st_size for hash_ in hashes)
        free = shutil.disk_usage(folder).free
        if size > free:
            raise RemoteError(
                f"{size / 1e6:.0f} MB are to be sent, and the disk has {free / 1e6:.0f} MB free"
            )

    def _remove_partial_uploads(self, hashes: set[str], start: float) -> None:
        """Remove what a failed push left in a folder; another try would leave as much again."""
        if self.fs.protocol != "local":
            return
        for folder in {Path(self.odb.oid_to_path(hash_)).parent for hash_ in hashes}:
            for file in folder.glob(".*.tmp"):
                with suppress(FileNotFoundError):
                    if file.stat().st_mtime >= start - 1:
                        file.unlink()

    def fetch(self, hashes: Iterable[str]) -> dict[str, str]:
        """Copy objects into the cache, and check each one's content against its hash.

        Returns:
            What is wrong with each object that is not in the cache afterwards, such as "is damaged
            on the remote", by its hash.

        Raises:
            Exception: the file system's own, where the remote can't be asked.
        """
        wanted = [hash_ for hash_ in sorted(hashes) if not self.cache.exists(hash_)]
        paths = {hash_: self.odb.oid_to_path(hash_) for hash_ in wanted}
        faults = {
            hash_: "is no regular file on the remote"
            for hash_ in wanted if not self._is_regular(paths[hash_])
        }  # fmt: skip
        wanted = [hash_ for hash_ in wanted if hash_ not in faults]
        errors: dict[str, BaseException] = {}
        for _ in range(2):  # a cut connection damages a copy as well
            if not wanted:
                return faults
            errors.clear()
            self.cache.add(
                [paths[hash_] for hash_ in wanted], self.odb.fs, wanted, verify=True,
                check_exists=False, batch_size=self.odb.fs.jobs, on_error=errors.__setitem__,
            )  # fmt: skip
            wanted = [hash_ for hash_ in wanted if not self.cache.exists(hash_)]
        for hash_ in wanted:
            error = errors.get(hash_)
            if error is None:
                faults[hash_] = f"is damaged on the remote ({paths[hash_]})"
            elif isinstance(error, FileNotFoundError):
                faults[hash_] = "is not on the remote"
            else:
                raise error
        return faults

    def _is_regular(self, path: str) -> bool:
        """Whether it is no link, pipe or device, as a folder may hold, or not there."""
        if self.fs.protocol != "local":
            return True
        try:
            return stat.S_ISREG(Path(path).lstat().st_mode)
        except FileNotFoundError:
            return True

    def remove_damaged(self, hashes: Iterable[str], folder: str) -> bool:
        """Remove damaged objects from a remote that is a folder, so that a push sends them again.

        DVC goes by their names alone. With them goes the list of the folder that they are of:
        where that is, DVC takes its files for given.

        Returns:
            Whether there were any.
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
            self.forget_what_is_there()
        return bool(damaged)

    def unsafe_folders(self, hashes: Iterable[str]) -> dict[str, str]:
        """Return those lists of a folder's files that name a path outside of it, with the path.

        They are removed from the cache: `dvc pull` writes wherever they say.
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
        """Return a folder's files, by their object's hash, as its list in the cache has them."""
        entries = json.loads(Path(self.cache.oid_to_path(folder)).read_bytes())
        return {entry["md5"]: entry["relpath"] for entry in entries}

    def bundle_size(self, name: str) -> int:
        """Return a bundle's size in bytes."""
        return int(_patiently(lambda: self.fs.size(self._place(name))) or 0)

    def lacks(self, hashes: Iterable[str]) -> set[str]:
        """Which objects are not there, asked anew of each."""
        wanted = set(hashes)
        return wanted - _patiently(lambda: set(self.odb.list_oids_exists(wanted)))

    def delete(self, hashes: Iterable[str]) -> None:
        """Take objects away, folders first, so that none is there without its files."""
        for hash_ in sorted(hashes, key=lambda name: not name.endswith(".dir")):
            self.fs.remove(self.odb.oid_to_path(hash_))

    def sweep(self) -> None:
        """Take away what killed uploads left in a folder, where DVC writes each file under a
        passing name first. Other remotes show no half files.
        """
        if self.fs.protocol != "local":
            return
        for folder in (self.odb.path, self._place("")):
            for file in Path(folder).rglob(".*.tmp"):
                with suppress(FileNotFoundError):  # it ended, or another machine was quicker
                    if time.time() - file.stat().st_mtime > ABANDONED:
                        file.unlink()

    def forget_what_is_there(self) -> None:
        """Clear DVC's note of it: a later push would take it at its word."""
        from dvc_data.hashfile.db import get_index

        with closing(get_index(self.odb)) as index:
            index.clear()

    def bundles(self, branch: str | None = None) -> list[str]:
        """Return the bundles' names, of a branch or of all: <branch>/<run>/<name>.bundle.

        Raises:
            RemoteError: the remote is a folder that is not there.
        """
        self._check_folder(Path(self.path))
        folder = self._place(branch or "")
        if not _patiently(lambda: self.fs.exists(folder)):
            return []
        names = (self._name(path) for path in _patiently(lambda: list(self.fs.find(folder))))
        bundles = [name for name in names if name.endswith(SUFFIX)]
        if branch is not None:
            bundles = [name for name in bundles if str(PurePosixPath(name).parents[1]) == branch]
        return sorted(bundles)

    def put_bundle(self, file: Path, name: str) -> None:
        """Send a bundle under a name of its own: no other is ever written over."""
        _patiently(lambda: self._put(file, self._place(name)))

    def get_bundle(self, name: str, file: Path) -> None:
        if not self._is_regular(self._place(name)):
            raise RemoteError("it is no regular file")
        _patiently(lambda: self.fs.get_file(self._place(name), str(file)))

    def delete_bundle(self, name: str) -> None:
        self.fs.remove(self._place(name))

    def _put(self, file: Path, place: str) -> None:
        self.fs.makedirs(self.fs.parent(place))
        self.fs.put_file(str(file), place)

    def _place(self, name: str) -> str:
        parts = [part for part in name.split("/") if part]
        place: str = self.fs.join(self.path, FOLDER, *parts)
        return place

    def _name(self, path: str) -> str:
        return "/".join(self.fs.parts(path)[len(self.fs.parts(self._place(""))) :])
