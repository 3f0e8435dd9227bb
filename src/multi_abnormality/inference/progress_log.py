"""Log of finished predictions, from which an interrupted run resumes."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from multi_abnormality.utils.errors import InputError

if TYPE_CHECKING:
    from multi_abnormality.data.io.scan_sources import ScanSource
    from multi_abnormality.inference.onnx_model import Prediction


class CachedPrediction(NamedTuple):
    """What is kept of a `Prediction`; the scan's name depends on the other scans."""

    probabilities: dict[str, float]
    warnings: tuple[str, ...]
    input_sha256: str
    slice_distance: float


class ProgressLog:
    """Finished predictions, one line of JSON each, in a file beside the output file.

    Args:
        out: output file.
        model: ONNX file; predictions of other models are ignored.

    Attributes:
        done: predictions of unchanged scans by the same model, by `scan_key`.

    Raises:
        InputError: the log cannot be written.
    """

    def __init__(self, out: Path, model: Path) -> None:
        self.path = path = out.with_name(f"{out.name}.part")
        with model.open("rb") as file:
            self._model = hashlib.file_digest(file, "sha256").hexdigest()
        self.done: dict[str, CachedPrediction] = {}
        with self._errors_named():
            if out.is_dir():
                raise InputError(f"{out}: is a folder; name a file in it")
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: each thread writes a whole line at once.
            self._file = path.open("a+b", buffering=0)
            self._file.seek(0)
            for line in self._file.read().splitlines():
                self._read_line(line)
            self._file.write(b"\n")  # terminates a truncated line

    def add(self, key: str | None, prediction: "Prediction") -> None:
        """Append a prediction; without a key it is not found again."""
        kept = {name: getattr(prediction, name) for name in CachedPrediction._fields}
        line = {"model": self._model, "scan": key, **kept}
        with self._errors_named():
            self._file.write(json.dumps(line).encode() + b"\n")

    def close(self, finished: bool) -> None:
        """Close the log, and delete it if the output is finished."""
        self._file.close()
        if finished:
            self.path.unlink()

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror})") from error

    def _read_line(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            if row["model"] == self._model:
                self.done[row["scan"]] = CachedPrediction(
                    row["probabilities"],
                    tuple(row["warnings"]),
                    str(row["input_sha256"]),
                    float(row["slice_distance"]),
                )
        except (ValueError, KeyError, TypeError):
            return  # an empty or truncated line


def scan_key(source: "ScanSource") -> str | None:
    """Hash the path, size and modification time of every file that the voxels depend on.

    Call it before reading the scan, so that a file changed meanwhile has another key.

    Returns:
        Digest, or None if a file is missing, which the scan's reader reports.
    """
    try:
        files = [(os.path.realpath(file), file.stat()) for file in source.files]
    except (OSError, InputError):
        return None
    series = source.series.uid if source.series else ""
    parts = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in files]
    return hashlib.sha256(json.dumps([series, parts]).encode()).hexdigest()
