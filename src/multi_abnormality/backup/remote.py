"""DVC's remote: objects and bundles, through DVC's own file system for it."""

import logging
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

T = TypeVar("T")


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

    def close(self) -> None:
        """Forget connections, log-ins and folders that were looked up: a later use asks anew."""
        type(self.fs.fs).clear_instance_cache()

    def probe(self) -> None:
        """Write a small file and take it away again."""
        if self.fs.protocol == "local" and not Path(self.path).parent.is_dir():
            raise RemoteError(
                f"the folder {Path(self.path).parent} is not there (is its disk mounted?)"
            )
        place = self._place(f"probe-{uuid.uuid4().hex}")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "probe"
            file.write_bytes(b"probe")
            _patiently(lambda: self._put(file, place))
        _patiently(lambda: self.fs.remove(place))

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
            claim({info.value for info in status.new if info.value})

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
            raise RemoteError(f"{len(failed)} files could not be sent: {first.reason}")
        return sum(Path(self.cache.oid_to_path(info.value)).stat().st_size for info in sent)

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
        """Bundles' names below the folder, of a branch or of all: <branch>/<run>/<name>.bundle."""
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
