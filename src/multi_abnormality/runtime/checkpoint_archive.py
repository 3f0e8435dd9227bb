"""Archive of checkpoints, by run fingerprint, in a directory that DVC does not manage.

`dvc exp run` checks out what dvc.lock names before it starts, and overwrites what a killed run left
in checkpoints/. So each saved checkpoint is hard-linked into the archive. Checkpoints of other runs
found in checkpoints/ are moved there; switching back to such a run resumes from them. If DVC has a
file in its cache, the archive only stores its MD5.
"""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

from multi_abnormality.runtime.checkpoint_io import load_checkpoint
from multi_abnormality.utils.atomic_io import atomic_write
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError

_REFERENCE = ".md5"  # suffix of a file that holds the MD5 of a checkpoint in DVC's cache


class CheckpointArchive:
    """Directory with one subdirectory of checkpoints per training run.

    Args:
        cache: DVC's cache of files by MD5; files that it holds are not archived a second time.
    """

    def __init__(self, root: Path, cache: Path) -> None:
        self.root = root
        self.cache = cache

    def run_dir(self, name: str) -> Path:
        return self.root / name

    def is_synced(self, folder: Path, name: str) -> bool:
        """Whether every archived checkpoint of a run is the same file in `folder`."""
        archived = self.run_dir(name).glob("*.ckpt")
        return all(_is_same(path, folder / path.name) for path in archived)

    def sync(self, folder: Path, name: str, kept: Sequence[str] = ()) -> None:
        """Make this run's archive an exact hard-linked copy of `folder`.

        Args:
            kept: files that the run keeps; one that was deleted from `folder` is restored first.
        """
        run_dir = self.run_dir(name)
        run_dir.mkdir(parents=True, exist_ok=True)
        self.restore(folder, name, kept)
        current = {path.name for path in folder.glob("*.ckpt")}
        for path in run_dir.glob("*.ckpt"):
            if path.name not in current:
                path.unlink()
        for reference in run_dir.glob(f"*{_REFERENCE}"):
            reference.unlink()
        for path in folder.glob("*.ckpt"):
            hard_link(path, run_dir / path.name)

    def restore(self, folder: Path, name: str, kept: Sequence[str]) -> None:
        """Restore files that were deleted from a run's `folder` and that its archive still has."""
        for file in kept:
            if (folder / file).exists():
                continue
            self.restore_cached(name)
            if (self.run_dir(name) / file).is_file():
                hard_link(self.run_dir(name) / file, folder / file)
                log.info("restored %s, which had been deleted", folder / file)

    def restore_cached(self, name: str) -> None:
        """Copy the files that a run's archive refers to from DVC's cache into the archive."""
        for reference in self.run_dir(name).glob(f"*{_REFERENCE}"):
            path, cached = reference.with_suffix(""), self._in_cache(reference.read_text())
            if not path.exists() and cached.is_file():
                atomic_write(cached.read_bytes(), path)

    def restore_all(self, folder: Path, name: str) -> None:
        """Link all archived checkpoints of a run into `folder`."""
        for path in self.run_dir(name).glob("*.ckpt"):
            hard_link(path, folder / path.name)

    def archive(self, path: Path, name: str) -> Path | None:
        """Archive `path` without overwriting anything.

        Returns:
            The archive directory that now holds the file, or None if DVC's cache holds it.
        """
        if digest := self._cached_digest(path):
            self._refer(path, digest, self.run_dir(name))
            return None
        run_dirs = (self.run_dir(name if n == 0 else f"{name}-{n}") for n in itertools.count())
        targets = (run_dir / path.name for run_dir in run_dirs)
        target = next(each for each in targets if not each.exists() or _is_same(path, each))
        target.parent.mkdir(parents=True, exist_ok=True)
        hard_link(path, target)
        path.unlink()
        return target.parent

    def prune(self) -> None:
        """Replace the files of finished runs by references where DVC's cache holds them all."""
        for run_dir in self.root.glob("*/"):
            if not _is_complete(run_dir / "last.ckpt"):
                continue
            digests = {path: self._cached_digest(path) for path in run_dir.glob("*.ckpt")}
            if all(digests.values()):
                for path, digest in digests.items():
                    self._refer(path, str(digest), run_dir)

    def _refer(self, path: Path, digest: str, run_dir: Path) -> None:
        """Replace a file by a reference to DVC's cache."""
        run_dir.mkdir(parents=True, exist_ok=True)
        atomic_write(digest.encode(), run_dir / f"{path.name}{_REFERENCE}")
        path.unlink()

    def _cached_digest(self, path: Path) -> str | None:
        """Return a file's MD5 if DVC's cache holds the file."""
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        return digest if self._in_cache(digest).is_file() else None

    def _in_cache(self, digest: str) -> Path:
        return self.cache / digest[:2] / digest[2:]


def _is_complete(path: Path) -> bool:
    try:
        return bool(load_checkpoint(path)["complete"])
    except InputError:
        return False


def _is_same(path: Path, other: Path) -> bool:
    return other.exists() and other.samefile(path)


def hard_link(source: Path, target: Path) -> None:
    """Hard-link `source` to `target`, replacing it; copy across file systems."""
    if _is_same(source, target):
        return
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
    except OSError:
        atomic_write(source.read_bytes(), target)
    else:
        temporary.replace(target)
