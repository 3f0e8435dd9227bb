"""Predictions on their way into a file, so that a killed run resumes where it was."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from multi_abnormality.errors import InputError

if TYPE_CHECKING:
    from multi_abnormality.data.io.scan_sources import ScanSource
    from multi_abnormality.predict.model import Prediction


class Known(NamedTuple):
    """Result of a scan that is predicted already. Its name depends on what else is given."""

    probabilities: dict[str, float]
    doubt: str | None


class Journal:
    """Finished predictions, a line of JSON each, beside the file that is to be made.

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
        self.done: dict[str, Known] = {}
        with self._errors_named():
            if out.is_dir():
                raise InputError(f"{out}: is a folder; name a file in it")
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer: each line is written at once, and whole, by whichever thread.
            self._file = path.open("a+b", buffering=0)
            self._file.seek(0)
            for line in self._file.read().splitlines():
                self._take(line)
            self._file.write(b"\n")  # after a line that was cut short

    def find(self, key: str | None) -> Known | None:
        """Return what was predicted, if this very scan was predicted by this very model.

        Args:
            key: of the scan, by `scan_key`.
        """
        return self.done.get(key) if key else None

    def add(self, key: str | None, prediction: "Prediction") -> None:
        """Keep a prediction; without a key it is not found again."""
        line = {
            "model": self._model,
            "scan": key,
            "probabilities": prediction.probabilities,
            "doubt": prediction.doubt,
        }
        with self._errors_named():
            self._file.write(json.dumps(line).encode() + b"\n")

    def close(self, finished: bool) -> None:
        """End it; a finished one is removed."""
        self._file.close()
        if finished:
            self.path.unlink()

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror})") from error

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            if row["model"] == self._model:
                self.done[row["scan"]] = Known(row["probabilities"], row["doubt"])
        except (ValueError, KeyError, TypeError):
            return  # an empty line, or the last one, cut short by a kill


def scan_key(source: "ScanSource") -> str | None:
    """Digest of the path, size and time of every file that the voxels depend on.

    To be taken before the scan is read: a file that changes meanwhile then has another key.

    Returns:
        None where a file cannot be found; the scan's reader reports that.
    """
    try:
        files = [(os.path.realpath(file), file.stat()) for file in source.files]
    except (OSError, InputError):
        return None
    series = source.series.uid if source.series else ""
    parts = [(path, about.st_size, about.st_mtime_ns) for path, about in files]
    return hashlib.sha256(json.dumps([series, parts]).encode()).hexdigest()
