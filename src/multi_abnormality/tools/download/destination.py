"""Destination folder of a download, and the folder next to it for partial files."""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from multi_abnormality.data.catalog.ct_rate_files import find_files
from multi_abnormality.data.catalog.placeholders import is_placeholder, placeholder_path
from multi_abnormality.data.catalog.volume_id import VolumeName
from multi_abnormality.tools.download.hub import Hub, RemoteFile
from multi_abnormality.utils.errors import InputError, first_few, plural, raise_errors


class DownloadDir:
    """CT-RATE root directory with `<root>.download/` next to it for partial files.

    Attributes:
        root: root directory, as given by the user.
        work: directory for partial files, complete tables and the list of verified files. It may be
            deleted after the last download.

    Raises:
        InputError: the root directory can't be used.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        if root.is_mount():
            raise InputError(
                f"--out {root}: is a mount point; use a folder on it, such as {root}/data"
            )
        if root.exists() and not root.is_dir():
            raise InputError(f"--out {root}: is not a folder; choose another")
        self.work = root.resolve().with_name(f"{root.resolve().name}.download")
        try:
            self.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--out {root}: cannot be created ({error.strerror}: {error.filename}); choose "
                f"another"
            ) from error
        self._verified_file = self.work / "proved.txt"
        self._verified = self._read_verified()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder against other downloads. A kill of this process releases the lock."""
        with (self.work / "lock").open("a+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"{self.root}: another process downloads to it; wait for it or stop it"
                ) from error
            yield

    def part(self, file: RemoteFile) -> Path:
        """Return the path of a partial file. Its name has the hash, so versions never mix."""
        stem, suffix = file.path.rpartition("/")[2].split(".", 1)
        return self.work / "parts" / f"{stem}.{file.oid[:12]}.{suffix}"

    def files(self) -> tuple[dict[VolumeName, Path], list[Path]]:
        """Return the volumes and the exclusion lists in the root directory."""
        files = find_files(self.root)
        raise_errors(files.faults, f"{self.root}/: correct these first")
        return files.volumes, files.exclusions

    def target(self, file: RemoteFile) -> Path:
        """Return the final path of a file."""
        return self.root / file.path

    def store(self, file: RemoteFile) -> None:
        """Move a complete, verified partial file to its final path, and delete its placeholder."""
        target = self.target(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        _move(self.part(file), target)
        self.mark_verified(file)
        placeholder_path(target).unlink(missing_ok=True)

    def mark_verified(self, file: RemoteFile) -> None:
        with self._verified_file.open("a", encoding="utf-8") as verified:
            verified.write(f"{file.oid} {file.path}\n")
        self._verified[file.path] = file.oid

    def is_complete(self, file: RemoteFile) -> bool:
        """Whether the file exists with the right content; it is hashed only once.

        Raises:
            InputError: another file is at its path that no download wrote.
        """
        path = self.target(file)
        if not path.exists():
            return False
        verified = self._verified.get(file.path)
        if path.stat().st_size == file.size:
            if verified == file.oid:
                return True
            if file.matches(path):
                self.mark_verified(file)
                return True
        if verified is None:
            raise InputError(_conflict_message(self.root, [file.path]))
        return False  # damaged, or of another revision

    def check_unlisted_scans(self, hub: Hub, volumes: Iterable[Path]) -> None:
        """Check that no volume has the name of one of CT-RATE's but other content.

        This is so for the sample scans; a download would mix phantoms with patients. Volumes that
        are not on the hub are a user's own scans and are allowed.
        """
        relative = [path.relative_to(self.root).as_posix() for path in volumes]
        unknown = [
            path
            for path in relative
            if path not in self._verified and not is_placeholder(Path(path))
        ]
        found = hub.describe(unknown)
        conflicting = [
            path for path in found if (self.root / path).stat().st_size != found[path].size
        ]
        if conflicting:
            raise InputError(_conflict_message(self.root, conflicting))

    def _read_verified(self) -> dict[str, str]:
        if not self._verified_file.exists():
            return {}
        lines = self._verified_file.read_text(encoding="utf-8").splitlines(keepends=True)
        # A kill may leave an incomplete last line.
        entries = (line.rstrip("\n").split(" ", 1) for line in lines if line.endswith("\n"))
        return {path: oid for oid, path in entries}


def _conflict_message(root: Path, paths: list[str]) -> str:
    return (
        f"{root}/: {plural(len(paths), 'volume has a name', 'volumes have names')} of CT-RATE's "
        f"but other content ({first_few(paths)}). "
        "These may be the sample scans. Move them, or choose another folder by --out"
    )


def _move(source: Path, target: Path) -> None:
    """Move a file; `target` may be on another disk, behind a link."""
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        shutil.move(source, temporary)
        with temporary.open("rb") as moved:
            os.fsync(moved.fileno())
        temporary.replace(target)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror}); downloaded data is kept"
        ) from error
