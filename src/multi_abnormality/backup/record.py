"""The running train stage as a DVC state: in the cache and in dvc.lock, and true."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diskcache import Timeout

from multi_abnormality.errors import InputError
from multi_abnormality.files import write_durably

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

STAGE = "train"
LOCKED = "another DVC command holds DVC's lock"
CHECKPOINTS = "checkpoints"
COMPLETE = "metrics/train.json"  # the stage's last word: no part of a state before the end


class RecordError(Exception):
    """The state could not be recorded now; a later try may."""


@dataclass(frozen=True)
class Recorded:
    """A state in DVC's cache and in dvc.lock.

    Attributes:
        epochs: whole epochs done.
        objects: hashes of the persistent outputs' objects.
        own: those of them that were not in the cache before.
    """

    epochs: int
    objects: tuple[str, ...]
    own: tuple[str, ...]


def open_repository(root: Path) -> "Repo | None":
    """DVC's repository at or above a folder; None where there is none."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        return Repo(str(root))
    except (NotDvcRepoError, SCMError):
        return None


def uncached_outputs(repo: "Repo") -> list[Path]:
    """Small results of all stages, which Git keeps.

    Raises:
        InputError: dvc.yaml or a .dvc file can't be read.
    """
    from dvc.exceptions import DvcException

    try:
        return [Path(out.fs_path) for out in repo.index.outs if not out.use_cache]
    except DvcException as error:
        raise InputError(f"the pipeline can't be read: {error}; `git diff` may show why") from error


class Recorder:
    """Records the train stage while it runs.

    What the stage read is taken at the start: a file that is edited while training runs has no
    part in its result.

    Args:
        repo: DVC's repository.

    Raises:
        InputError: dvc.yaml has no such stage, or can't be read.
        RecordError: another DVC command holds the lock.
    """

    def __init__(self, repo: "Repo") -> None:
        from dvc.exceptions import DvcException
        from dvc.lock import LockError
        from dvc.repo import lock_repo

        self.repo = repo
        self._hashes: dict[tuple[int, ...], HashInfo] = {}  # of files as they were recorded
        try:
            with lock_repo(repo):
                self.stage = repo.stage.load_one(str(Path(repo.root_dir) / "dvc.yaml"), STAGE)
                self.stage.save_deps(allow_missing=True)
                self.files = [dep for dep in self.stage.deps if dep not in self.stage.params]
        except LockError as error:
            raise RecordError(LOCKED) from error
        except DvcException as error:
            raise InputError(f"dvc.yaml: the stage {STAGE} can't be backed up: {error}") from error
        except (sqlite3.Error, Timeout) as error:
            raise InputError(
                f"{repo.site_cache_dir}: DVC's database can't be written ({error}); make room there"
            ) from error

    def inputs(self) -> tuple[list[str], list[str]]:
        """What a restore needs of the stage's dependencies that Git does not hold.

        Returns:
            Hashes of the objects that are in the cache, and paths of those that are not.
        """
        hashes: list[str] = []
        missing: list[str] = []
        for dep in self.files:
            if self._is_cached(dep):
                hashes += _hashes_of(dep)
            elif dep.is_in_repo and self._is_ignored(dep):
                missing.append(dep.def_path)
        return hashes, missing

    def _is_ignored(self, item: "Output") -> bool:
        from dvc.scm import NoSCM

        return not isinstance(self.repo.scm, NoSCM) and self.repo.scm.is_ignored(item.fs_path)

    def _is_cached(self, item: "Output") -> bool:
        cache, value = self.repo.cache.local, item.hash_info.value
        if not value or not cache.exists(value):
            return False
        return all(cache.exists(hash_) for hash_ in _hashes_of(item))

    def is_ahead(self) -> bool:
        """Whether a checkpoint lies here that is not in the cache: training went on after a record.

        Raises:
            RecordError: another DVC command holds the lock.
        """
        from dvc.lock import LockError
        from dvc.repo import lock_repo

        try:
            with lock_repo(self.repo):
                self._save_outputs()
        except LockError as error:
            raise RecordError(LOCKED) from error
        files = [hash_ for out in self._kept() if out.hash_info for hash_ in _hashes_of(out)[1:]]
        return not all(self.repo.cache.local.exists(hash_) for hash_ in files)

    def _kept(self) -> list["Output"]:
        return [out for out in self.stage.outs if out.persist and out.use_cache]

    def record(self, epochs: int) -> Recorded:
        """Put the checkpoints as they are into the cache, and name them in dvc.lock.

        Args:
            epochs: whole epochs done. The lock says that so many were wanted, but always fewer
                than are: so DVC runs the stage again.

        Raises:
            RecordError: the disk is full, or another DVC command holds the lock.
        """
        from dvc.exceptions import DvcException
        from dvc.lock import LockError
        from dvc.repo import lock_repo

        try:
            with lock_repo(self.repo):
                self._save_outputs()
                kept = self._kept()
                for out in kept:
                    if not out.hash_info:
                        raise RecordError(f"{out} is not there")
                objects = [hash_ for out in kept for hash_ in _hashes_of(out)]
                own = [hash_ for hash_ in objects if not self.repo.cache.local.exists(hash_)]
                for out in kept:
                    out.commit(relink=False)
                self._write_lock(epochs)
        except LockError as error:
            raise RecordError(LOCKED) from error
        except (DvcException, InputError, OSError, sqlite3.Error, Timeout) as error:
            raise RecordError(f"the state could not be recorded: {error}") from error
        return Recorded(epochs, tuple(objects), tuple(own))

    def _save_outputs(self) -> None:
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.meta import Meta

        for out in self.stage.outs:
            out.hash_info, out.meta, out.obj = HashInfo(), Meta(), None  # of an earlier run
            if out.def_path != COMPLETE and out.exists:
                self._tell_links(out)
                out.save()

    def _tell_links(self, out: "Output") -> None:
        """A checkpoint has several names, and moves to another; DVC would read it for each."""
        from dvc_data.hashfile.hash import hash_file

        known, self._hashes = self._hashes, {}
        for path in map(str, sorted(Path(out.fs_path).glob("*.ckpt"))):
            about = Path(path).stat()
            file = (about.st_dev, about.st_ino, about.st_mtime_ns, about.st_size)
            found = self._hashes.get(file) or known.get(file)
            if found:
                self.repo.state.save(path, out.fs, found)
            else:
                _, found = hash_file(path, out.fs, out.hash_name, state=self.repo.state)
            self._hashes[file] = found

    def _write_lock(self, epochs: int) -> None:
        """Replace dvc.lock whole: DVC itself writes over it, and a kill would leave half."""
        from dvc.stage.serialize import to_lockfile
        from dvc.utils.serialize import dumps_yaml, load_yaml

        entry: dict[str, Any] = to_lockfile(self.stage)[STAGE]
        entry["outs"] = [out for out in entry["outs"] if "md5" in out]
        params = entry["params"]["params.yaml"]
        wanted = min(epochs, params["train"]["epochs"] - 1)
        params["train"] = params["train"] | {"epochs": wanted}
        lock = Path(self.stage.dvcfile.path).with_suffix(".lock")
        content: dict[str, Any] = load_yaml(str(lock)) if lock.exists() else {"schema": "2.0"}
        stages = content.setdefault("stages", {})
        stages[STAGE] = entry
        content["stages"] = {
            name: stage for name, stage in stages.items() if name == STAGE or self._is_here(stage)
        }
        write_durably(dumps_yaml(content).encode(), lock)

    def _is_here(self, entry: dict[str, Any]) -> bool:
        """Whether a stage's results are: if it only says that somebody had them, `dvc repro
        --allow-missing` would never make them.
        """
        folder = Path(self.stage.dvcfile.path).parent
        return all((folder / out["path"]).exists() for out in entry.get("outs", ()))


def _hashes_of(item: "Output") -> tuple[str, ...]:
    """An item's own object, and for a folder those of its files."""
    files = item.get_obj() if item.hash_info.isdir else None
    return (item.hash_info.value, *sorted({hash_.value for _, _, hash_ in files or ()}))
