"""Recorder of the running train stage as a DVC state, in the cache and in dvc.lock."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diskcache import Timeout

from multi_abnormality.backup.files_to_upload import hashes_of, uploaded_outputs
from multi_abnormality.utils.atomic_io import atomic_write
from multi_abnormality.utils.errors import InputError

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

STAGE = "train"
CHECKPOINTS = "checkpoints"
COMPLETE = "metrics/train.json"  # written last, so not part of an unfinished state


class RecordError(Exception):
    """The state could not be recorded; a retry may succeed."""


def open_repository(root: Path) -> "Repo | None":
    """Return the DVC repository at or above a folder, or None."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import SCMError

    for name in ("dvc", "dvc_data", "dvc_objects"):  # which print by handlers of their own, too
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
    try:
        return Repo(str(root))
    except (NotDvcRepoError, SCMError):
        return None


@contextmanager
def _locked(repo: "Repo") -> Iterator[None]:
    from dvc.lock import LockError
    from dvc.repo import lock_repo

    try:
        with lock_repo(repo):
            yield
    except LockError as error:
        raise RecordError("another DVC command holds DVC's lock") from error


class Recorder:
    """Records the train stage while it runs.

    The stage's dependencies are hashed at the start: files edited during training do not affect
    the result.

    Raises:
        InputError: dvc.yaml has no train stage, or can't be read.
        RecordError: another DVC command holds the lock.
    """

    def __init__(self, repo: "Repo") -> None:
        from dvc.exceptions import DvcException

        self.repo = repo
        self._hashes: dict[tuple[int, ...], HashInfo] = {}  # by (device, inode, mtime, size)
        try:
            with _locked(repo):
                self.stage = repo.stage.load_one(str(Path(repo.root_dir) / "dvc.yaml"), STAGE)
                self.stage.save_deps(allow_missing=True)
        except DvcException as error:
            raise InputError(f"dvc.yaml: the stage {STAGE} can't be backed up: {error}") from error
        except (sqlite3.Error, Timeout) as error:
            raise InputError(
                f"{repo.site_cache_dir}: DVC's database can't be written ({error}); free disk space"
            ) from error
        self.files = [dep for dep in self.stage.deps if dep not in self.stage.params]
        self.outputs = uploaded_outputs(self.stage)

    def has_newer_checkpoints(self) -> bool:
        """Whether a checkpoint is not in the cache: training continued after the last record."""
        with _locked(self.repo):
            self._save_outputs()
        outs = [out for out in self.outputs if out.hash_info]
        files = [hash_ for out in outs for hash_ in hashes_of(out)[1:]]
        return not all(self.repo.cache.local.exists(hash_) for hash_ in files)

    def record(self, epochs: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Add the current checkpoints to the cache and record them in dvc.lock.

        Args:
            epochs: completed epochs. Recorded as the value of train.epochs, but always below the
                real one, so that DVC runs the stage again.

        Returns:
            Hashes of the persistent outputs' objects, and of those that were not in the cache.

        Raises:
            RecordError: the disk is full, or another DVC command holds the lock.
        """
        from dvc.exceptions import DvcException

        try:
            with _locked(self.repo):
                self._save_outputs()
                if absent := [str(out) for out in self.outputs if not out.hash_info]:
                    raise RecordError(f"{absent[0]} does not exist")
                objects = [hash_ for out in self.outputs for hash_ in hashes_of(out)]
                own = [hash_ for hash_ in objects if not self.repo.cache.local.exists(hash_)]
                for out in self.outputs:
                    out.commit(relink=False)
                self._write_lock(epochs)
        except (DvcException, InputError, OSError, sqlite3.Error, Timeout) as error:
            raise RecordError(f"the state could not be recorded: {error}") from error
        return tuple(objects), tuple(own)

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
        stages = content.get("stages", {}) | {STAGE: entry}
        content["stages"] = {
            name: stage for name, stage in stages.items()
            if name == STAGE or self._outputs_exist(stage)
        }  # fmt: skip
        atomic_write(dumps_yaml(content).encode(), lock)

    def _outputs_exist(self, entry: dict[str, Any]) -> bool:
        """Whether a stage's outputs exist; `--allow-missing` would never make recorded ones."""
        folder = Path(self.stage.dvcfile.path).parent
        return all((folder / out["path"]).exists() for out in entry.get("outs", ()))
