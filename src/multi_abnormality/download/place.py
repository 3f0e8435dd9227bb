"""The folder that is downloaded to, and the one beside it that holds what is not finished."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from multi_abnormality.data.ct_rate_files import Files, find_files
from multi_abnormality.data.names import VolumeName
from multi_abnormality.data.receipts import is_receipt, receipt_path
from multi_abnormality.data.rows import MOST_FAULTS
from multi_abnormality.download.hub import Hub, RemoteFile
from multi_abnormality.errors import InputError, raise_faults

PIECE = 1 << 20


class Place:
    """A CT-RATE root with `<root>.download/` beside it, so that no half file is ever in the root.

    Attributes:
        root: as the user gave it.
        work: for parts, whole tables, and the list of what has been proved. It may be deleted
            when nothing more is to come.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        if root.is_mount():
            raise InputError(f"--out {root}: is a whole disk; give a folder on it, {root}/data")
        if root.exists() and not root.is_dir():
            raise InputError(f"--out {root}: is no folder; give another")
        self.work = root.resolve().with_name(f"{root.resolve().name}.download")
        try:
            self.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--out {root}: cannot be made ({error.strerror}: {error.filename}); give another"
            ) from error
        self._proved_file = self.work / "proved.txt"
        self._proved = self._read_proved()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep a second download to the same folder out, until this process ends however it ends.

        Raises:
            InputError: there is one already.
        """
        with (self.work / "lock").open("a+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"{self.root}: another process downloads to it; wait for it or end it"
                ) from error
            yield

    def part(self, file: RemoteFile) -> Path:
        """Where a file grows. Its name has the hash, so that versions never mix."""
        stem, suffix = file.path.rpartition("/")[2].split(".", 1)
        return self.work / "parts" / f"{stem}.{file.oid[:12]}.{suffix}"

    def volumes(self) -> dict[VolumeName, Path]:
        """All that are there."""
        files = self.files()
        raise_faults(files.faults, f"{self.root}/: correct these first")
        return files.volumes

    def files(self) -> Files:
        return find_files(self.root)

    def target(self, file: RemoteFile) -> Path:
        """Where the file belongs."""
        return self.root / file.path

    def put(self, file: RemoteFile) -> None:
        """Move a whole and proved part to its place, where a receipt may have been."""
        target = self.target(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        _move(self.part(file), target)
        self.note_proved(file)
        receipt_path(target).unlink(missing_ok=True)

    def note_proved(self, file: RemoteFile) -> None:
        with self._proved_file.open("a", encoding="utf-8") as notes:
            notes.write(f"{file.oid} {file.path}\n")
        self._proved[file.path] = file.oid

    def has(self, file: RemoteFile) -> bool:
        """Whether the file is in its place; read once, and taken for given from then on.

        Raises:
            InputError: something else is there, and no download put it there.
        """
        path = self.target(file)
        if not path.exists():
            return False
        proved = self._proved.get(file.path)
        if path.stat().st_size == file.size:
            if proved == file.oid:
                return True
            if _hash(file, path) == file.oid:
                self.note_proved(file)
                return True
        if proved is None:
            raise InputError(_strange(self.root, [file.path]))
        return False  # damaged since, or of another revision

    def check_strangers(self, hub: Hub, volumes: Iterable[Path]) -> None:
        """Raise an InputError where volumes bear the names of CT-RATE's and are others.

        The sample scans are such: beside them, a download would mix phantoms with patients.
        Volumes that the hub has no names for are a user's own patients, and welcome.
        """
        relative = [path.relative_to(self.root).as_posix() for path in volumes]
        unknown = [
            path for path in relative if path not in self._proved and not is_receipt(Path(path))
        ]
        found = hub.describe(unknown)
        strange = [path for path in found if (self.root / path).stat().st_size != found[path].size]
        if strange:
            raise InputError(_strange(self.root, strange))

    def _read_proved(self) -> dict[str, str]:
        if not self._proved_file.exists():
            return {}
        lines = self._proved_file.read_text(encoding="utf-8").splitlines(keepends=True)
        # A kill may have left half of the last line.
        notes = (line.rstrip("\n").split(" ", 1) for line in lines if line.endswith("\n"))
        return {path: oid for oid, path in notes}


def _strange(root: Path, paths: list[str]) -> str:
    shown = ", ".join(paths[:MOST_FAULTS])
    return (
        f"{root}/: {len(paths)} volumes bear names of CT-RATE's and have other content ({shown}). "
        "These may be the sample scans. Move them away, or give another folder by --out"
    )


def _hash(file: RemoteFile, path: Path) -> str:
    hasher = file.hasher()
    with path.open("rb") as content:
        while piece := content.read(PIECE):
            hasher.update(piece)
    return hasher.hexdigest()


def _move(source: Path, target: Path) -> None:
    """Rename, or copy first where a part of the root is a link to another disk."""
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise InputError(
                f"{target}: cannot be written ({error.strerror}); what arrived is kept"
            ) from error
        near = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(source, near)
        with near.open("rb") as copied:
            os.fsync(copied.fileno())
        near.replace(target)
        source.unlink()
