"""Trainings' checkpoints where no DVC command and no other training touches them.

`dvc exp run` checks out what dvc.lock names before it starts, over whatever a killed training has
left in checkpoints/. So each save is linked here as well, by the training's fingerprint; and what a
training of another kind finds in its way is put here. Whoever goes back to it goes on from there.
"""

import hashlib
import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

from multi_abnormality.console import log
from multi_abnormality.errors import InputError
from multi_abnormality.files import write_durably
from multi_abnormality.training.files import load_checkpoint


class Aside:
    """A folder with a folder a training.

    Args:
        root: of it.
        cache: DVC's, of files by their MD5; what it holds need not be kept twice.
    """

    def __init__(self, root: Path, cache: Path) -> None:
        self.root = root
        self.cache = cache

    def place(self, name: str) -> Path:
        return self.root / name

    def is_mirror(self, folder: Path, name: str) -> bool:
        """Whether all that is held is in a folder as well, the same files."""
        held = self.place(name).glob("*.ckpt")
        return all(_is_same(path, folder / path.name) for path in held)

    def mirror(self, folder: Path, name: str, kept: Sequence[str] = ()) -> None:
        """Make this run's archive an exact hard-linked copy of `folder`.

        Args:
            folder: directory of checkpoints.
            name: the run's fingerprint.
            kept: files that the run keeps; one that was deleted from `folder` is restored first.
        """
        place = self.place(name)
        place.mkdir(parents=True, exist_ok=True)
        self.restore(folder, name, kept)
        there = {path.name for path in folder.glob("*.ckpt")}
        for path in place.glob("*.ckpt"):
            if path.name not in there:
                path.unlink()
        for path in folder.glob("*.ckpt"):
            link(path, place / path.name)

    def restore(self, folder: Path, name: str, kept: Sequence[str]) -> None:
        """Restore files that were deleted from a run's `folder` and that its archive still has."""
        for file in kept:
            if not (folder / file).exists() and (self.place(name) / file).is_file():
                link(self.place(name) / file, folder / file)
                log.info("%s was deleted and is restored", folder / file)

    def bring_back(self, folder: Path, name: str) -> None:
        """Put a training's files, if there are any, into a folder."""
        for path in (self.place(name)).glob("*.ckpt"):
            link(path, folder / path.name)

    def keep(self, path: Path, name: str) -> Path | None:
        """Move a file here, over no other, or just remove it where DVC has it; where it is now."""
        if self._is_cached(path):
            path.unlink()
            return None
        places = (self.place(name if n == 0 else f"{name}-{n}") for n in itertools.count())
        place = next(p for p in places if _is_free(p / path.name, path))
        place.mkdir(parents=True, exist_ok=True)
        link(path, place / path.name)
        path.unlink()
        return place

    def tidy(self) -> None:
        """Remove trainings that ended and that DVC has."""
        for place in self.root.glob("*/"):
            if _has_ended(place / "last.ckpt") and all(map(self._is_cached, place.iterdir())):
                shutil.rmtree(place)

    def _is_cached(self, path: Path) -> bool:
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        return (self.cache / digest[:2] / digest[2:]).is_file()


def _has_ended(path: Path) -> bool:
    try:
        return bool(load_checkpoint(path)["complete"])
    except InputError:
        return False


def _is_free(target: Path, source: Path) -> bool:
    return not target.exists() or _is_same(source, target)


def _is_same(path: Path, other: Path) -> bool:
    return other.exists() and other.samefile(path)


def link(source: Path, target: Path) -> None:
    """Make `target` the same file; a copy where the two are on different disks.

    Raises:
        InputError: the disk is full or read-only.
    """
    if _is_same(source, target):
        return
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
    except OSError:
        write_durably(source.read_bytes(), target)
    else:
        temporary.replace(target)
