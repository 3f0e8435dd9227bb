"""Predictions on their way into a file, so that a killed run goes on where it was."""

import hashlib
import json
from pathlib import Path

from multi_abnormality.errors import InputError
from multi_abnormality.predict.model import Prediction

Probabilities = dict[str, float]


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
        self.done: dict[tuple[str, int, int], tuple[str, Probabilities]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._take(line)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error
        self._file.write("\n")  # after a line that was cut short

    def find(self, scan: Path) -> tuple[str, Probabilities] | None:
        """Name and probabilities, if this very file was predicted by this very model."""
        return self.done.get(_key(scan)) if scan.exists() else None

    def add(self, scan: Path, prediction: Prediction) -> None:
        line = {
            "model": self._model,
            "scan": _key(scan),
            "name": prediction.name,
            "probabilities": prediction.probabilities,
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self, finished: bool) -> None:
        """End it; a finished one is removed."""
        self._file.close()
        if finished:
            self.path.unlink()

    def _take(self, line: str) -> None:
        try:
            row = json.loads(line)
            if row["model"] == self._model:
                path, size, changed = row["scan"]
                self.done[path, size, changed] = row["name"], row["probabilities"]
        except (ValueError, KeyError, TypeError):
            return  # an empty line, or the last one, cut short by a kill


def _key(scan: Path) -> tuple[str, int, int]:
    about = scan.stat()
    return str(scan.resolve()), about.st_size, about.st_mtime_ns
