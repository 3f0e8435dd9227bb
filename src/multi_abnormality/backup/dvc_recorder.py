"""Recorder of the running train stage as a DVC state, in the cache and in dvc.lock."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diskcache import Timeout

from multi_abnormality.utils.atomic_io import atomic_write
from multi_abnormality.utils.errors import InputError

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

STAGE = "train"
LOCKED_MESSAGE = "another DVC command holds DVC's lock"
CHECKPOINTS = "checkpoints"
COMPLETE = "metrics/train.json"  # written last, so not part of an unfinished state


class RecordError(Exception):
    """The state could not be recorded; a retry may succeed."""


@dataclass(frozen=True)
class Recorded:
    """A state in DVC's cache and in dvc.lock.

    Attributes:
        epochs: completed epochs.
        objects: hashes of the persistent outputs' objects.
        own: hashes of the objects that were not in the cache before.
    """

    epochs: int
    objects: tuple[str, ...]
    own: tuple[str, ...]


def open_repository(root: Path) -> "Repo | None":
    """Return the DVC repository at or above a folder, or None."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        return Repo(str(root))
    except (NotDvcRepoError, SCMError):
        return None


def uncached_outputs(repo: "Repo") -> list[Path]:
    """Return the outputs of all stages that are tracked by Git instead of DVC's cache.

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

    The stage's dependencies are hashed at the start: files edited during training do not affect
    the result.

    Args:
        repo: DVC repository.

    Raises:
        InputError: dvc.yaml has no train stage, or can't be read.
        RecordError: another DVC command holds the lock.
    """

    def __init__(self, repo: "Repo") -> None:
        from dvc.exceptions import DvcException
        from dvc.lock import LockError
        from dvc.repo import lock_repo

        self.repo = repo
        self._hashes: dict[tuple[int, ...], HashInfo] = {}  # by (device, inode, mtime, size)
        try:
            with lock_repo(repo):
                self.stage = repo.stage.load_one(str(Path(repo.root_dir) / "dvc.yaml"), STAGE)
                self.stage.save_deps(allow_missing=True)
                self.files = [dep for dep in self.stage.deps if dep not in self.stage.params]
        except LockError as error:
            raise RecordError(LOCKED_MESSAGE) from error
        except DvcException as error:
            raise InputError(f"dvc.yaml: the stage {STAGE} can't be backed up: {error}") from error
        except (sqlite3.Error, Timeout) as error:
            raise InputError(
                f"{repo.site_cache_dir}: DVC's database can't be written ({error}); free disk space"
            ) from error

    def inputs(self) -> tuple[list[str], list[str]]:
        """Return the stage's dependencies that a restore needs and Git does not track.

        Returns:
            Hashes of the objects in the cache, and paths of dependencies that are not in it.
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

    def has_newer_checkpoints(self) -> bool:
        """Whether a checkpoint is not in the cache, since training continued after the last record.

        Raises:
            RecordError: another DVC command holds the lock.
        """
        from dvc.lock import LockError
        from dvc.repo import lock_repo

        try:
            with lock_repo(self.repo):
                self._save_outputs()
        except LockError as error:
            raise RecordError(LOCKED_MESSAGE) from error
        outs = [out for out in self._persistent_outputs() if out.hash_info]
        files = [hash_ for out in outs for hash_ in _hashes_of(out)[1:]]
        return not all(self.repo.cache.local.exists(hash_) for hash_ in files)

    def _persistent_outputs(self) -> list["Output"]:
        return [out for out in self.stage.outs if out.persist and out.use_cache]

    def record(self, epochs: int) -> Recorded:
        """Add the current checkpoints to the cache and record them in dvc.lock.

        Args:
            epochs: completed epochs. Recorded as the value of train.epochs, but always below the
                real one, so that DVC runs the stage again.

        Raises:
            RecordError: the disk is full, or another DVC command holds the lock.
        """
        from dvc.exceptions import DvcException
        from dvc.lock import LockError
        from dvc.repo import lock_repo

        try:
            with lock_repo(self.repo):
                self._save_outputs()
                outs = self._persistent_outputs()
                for out in outs:
                    if not out.hash_info:
                        raise RecordError(f"{out} does not exist")
                objects = [hash_ for out in outs for hash_ in _hashes_of(out)]
                own = [hash_ for hash_ in objects if not self.repo.cache.local.exists(hash_)]
                for out in outs:
                    out.commit(relink=False)
                self._write_lock(epochs)
        except LockError as error:
            raise RecordError(LOCKED_MESSAGE) from error
        except (DvcException, InputError, OSError, sqlite3.Error, Timeout) as error:
            raise RecordError(f"the state could not be recorded: {error}") from error
        return Recorded(epochs, tuple(objects), tuple(own))

    def _save_outputs(self) -> None:
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.meta import Meta

        for out in self.stage.outs:
            out.hash_info, out.meta, out.obj = HashInfo(), Meta(), None  # of an earlier run
            if out.def_path != COMPLETE and out.exists:
                self._reuse_known_hashes(out)
                out.save()

    def _reuse_known_hashes(self, out: "Output") -> None:
        """Avoid hashing a checkpoint again under another name (a hard link, or after a rename)."""
        from dvc_data.hashfile.hash import hash_file

        known, self._hashes = self._hashes, {}
        for path in map(str, sorted(Path(out.fs_path).glob("*.ckpt"))):
            stat = Path(path).stat()
            file = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)
            found = self._hashes.get(file) or known.get(file)
            if found:
                self.repo.state.save(path, out.fs, found)
            else:
                _, found = hash_file(path, out.fs, out.hash_name, state=self.repo.state)
            self._hashes[file] = found

    def _write_lock(self, epochs: int) -> None:
        """Write dvc.lock atomically; DVC overwrites it in place."""
        from dvc.stage.serialize import to_lockfile
        from dvc.utils.serialize import dumps_yaml, load_yaml

        entry: dict[str, Any] = to_lockfile(self.stage)[STAGE]
        entry["outs"] = [out for out in entry["outs"] if "md5" in out]
        params = entry["params"]["params.yaml"]
        recorded_epochs = min(epochs, params["train"]["epochs"] - 1)
        params["train"] = params["train"] | {"epochs": recorded_epochs}
        lock = Path(self.stage.dvcfile.path).with_suffix(".lock")
        content: dict[str, Any] = load_yaml(str(lock)) if lock.exists() else {"schema": "2.0"}
        stages = content.setdefault("stages", {})
        stages[STAGE] = entry
        content["stages"] = {
            name: stage
            for name, stage in stages.items()
            if name == STAGE or self._outputs_exist(stage)
        }
        atomic_write(dumps_yaml(content).encode(), lock)

    def _outputs_exist(self, entry: dict[str, Any]) -> bool:
        """Whether a stage's outputs exist; `--allow-missing` would never make recorded ones."""
        folder = Path(self.stage.dvcfile.path).parent
        return all((folder / out["path"]).exists() for out in entry.get("outs", ()))


def _hashes_of(item: "Output") -> tuple[str, ...]:
    """Return the hashes of an item's object and, for a folder, of its files."""
    files = item.get_obj() if item.hash_info.isdir else None
    return (item.hash_info.value, *sorted({hash_.value for _, _, hash_ in files or ()}))
