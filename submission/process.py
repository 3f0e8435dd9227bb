"""The challenge's container: scans in /input to /output/results.json and predictions.json.

If any scan cannot be predicted, the error names it and no results are written. Finished predictions
are stored in /checkpoint, if it exists, and reused after an interruption.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

from multi_abnormality import load_model
from multi_abnormality.data.io.reader_registry import scan_name, scan_suffixes
from multi_abnormality.data.io.scan_sources import ScanSource
from multi_abnormality.evaluation.prediction_files import write_submission
from multi_abnormality.evaluation.threshold_selection import submission_probabilities
from multi_abnormality.inference.batch_prediction import predict_all
from multi_abnormality.inference.progress_log import ProgressLog
from multi_abnormality.inference.scan_id import NamedScan, refuse_equal
from multi_abnormality.utils import console
from multi_abnormality.utils.errors import InputError, raise_errors

RESULTS = ("results.json", "predictions.json")  # equal content; either name may be expected


def main() -> None:
    folders = _folders()
    _clear(folders.output)
    model = load_model(folders.weights)
    scans = _scans(folders.input)
    with tempfile.TemporaryDirectory() as temporary:
        is_writable = os.access(folders.checkpoint, os.W_OK)
        cache = folders.checkpoint if is_writable else Path(temporary)
        progress = ProgressLog(cache / RESULTS[0], model.path)
        rows, errors = predict_all(model, scans, workers=1, progress=progress)
        raise_errors(errors, f"no results: {len(errors)} of {len(scans)} cases failed")
        card = model.card
        probabilities = submission_probabilities(
            np.array([list(by_finding.values()) for _, by_finding in rows]),
            np.array([card.thresholds[finding] for finding in card.findings]),
        )
        for name in RESULTS:
            names = [case for case, _ in rows]
            write_submission(folders.output / name, names, probabilities, card.findings)
        progress.close(finished=True)
    console.log.info("%s: %d cases", folders.output / RESULTS[0], len(rows))


def _clear(output: Path) -> None:
    """Delete earlier results, and check that new ones can be written."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name in RESULTS:
            (output / name).unlink(missing_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror})") from error


def _folders() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("input", "output", "weights", "checkpoint"):
        parser.add_argument(f"--{name}", type=Path, default=Path("/", name))
    return parser.parse_args()


def _scans(folder: Path) -> list[NamedScan]:
    """Find the scans in a folder, and warn about other files.

    Raises:
        InputError: there is no scan, one lies in a subfolder, or two have the same name.
    """
    try:
        found = sorted(folder.iterdir())
        scans = [path for path in found if _is_scan_file(path)]
        below = [path for path in sorted(folder.glob("*/**/*")) if _is_scan_file(path)]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    raise_errors(
        [str(path) for path in below], f"{folder}: scans must lie in it, not in subfolders"
    )
    if others := [path.name for path in found if path not in scans]:
        console.log.warning("%s: these are not scans: %s", folder, ", ".join(others))
    if not scans:
        raise InputError(f"{folder}: holds no scan; one of {', '.join(scan_suffixes())} is needed")
    named = [NamedScan(scan_name(scan), ScanSource(scan)) for scan in scans]
    refuse_equal(named, f"{folder}: results name cases without suffix")
    return named


def _is_scan_file(path: Path) -> bool:
    """Whether a path has a scan's suffix; macOS adds a "._case.mha" to each file."""
    return path.name.lower().endswith(scan_suffixes()) and path.name[0] != "." and not path.is_dir()


if __name__ == "__main__":
    console.run(main)
