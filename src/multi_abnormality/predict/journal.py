"""Predictions on their way into a file, so that a killed run goes on where it was."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from multi_abnormality.errors import InputError
from multi_abnormality.predict.model import Prediction


class Known(NamedTuple):
    """Of a scan that is predicted already. What it is called depends on what else is given."""

    probabilities: dict[str, float]
    doubt: str | None


class Journal:
    """What is predicted so far, a line of JSON a scan, beside the file that is to be made.

    Args:
        out: that file.
        model: the ONNX file; predictions of another are not taken.

    Raises:
        InputError: it can't be written.
    """

    def __init__(self, out: Path, model: Path) -> None:
        self.path = path = out.with_name(f"{out.name}.part")
        with model.open("rb") as file:
            self._model = hashlib.file_digest(file, "sha256").hexdigest()
        self.done: dict[tuple[str, int, int], Known] = {}
        with self._told():
            if out.is_dir():
                raise InputError(f"{out}: is a folder; name a file in it")
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer: each line is written at once, and whole, by whichever thread.
            self._file = path.open("a+b", buffering=0)
            self._file.seek(0)
            for line in self._file.read().splitlines():
                self._take(line)
            self._file.write(b"\n")  # after a line that was cut short

    def find(self, scan: Path) -> Known | None:
        """What was predicted, if this very file was predicted by this very model."""
        try:
            return self.done.get(_key(scan))
        except OSError:
            return None  # who reads the scan says what is wrong with it

    def add(self, scan: Path, prediction: Prediction) -> None:
        line = {
            "model": self._model,
            "scan": _key(scan),
            "probabilities": prediction.probabilities,
            "doubt": prediction.doubt,
        }
        with self._told():
            self._file.write(json.dumps(line).encode() + b"\n")

    def close(self, finished: bool) -> None:
        """End it; a finished one is removed."""
        self._file.close()
        if finished:
            self.path.unlink()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror})") from error

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            if row["model"] == self._model:
                path, size, changed = row["scan"]
                self.done[path, size, changed] = Known(row["probabilities"], row["doubt"])
        except (ValueError, KeyError, TypeError):
            return  # an empty line, or the last one, cut short by a kill


def _key(scan: Path) -> tuple[str, int, int]:
    """A folder is as large as its files, and as new as the newest: slices may be replaced.

    So is a .mhd file with the voxels beside it.
    """
    parts = [scan]
    if scan.is_dir():
        parts += scan.iterdir()
    elif scan.suffix.lower() == ".mhd":
        parts += filter(Path.exists, map(scan.with_suffix, (".raw", ".zraw")))
    about = [part.stat() for part in parts]
    size, changed = sum(one.st_size for one in about), max(one.st_mtime_ns for one in about)
    return str(scan.resolve()), size, changed
