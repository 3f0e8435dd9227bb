"""The challenge's container: scans in /input to /output/results.json and predictions.json.

All or nothing: one scan that cannot be predicted is an error that names it, and no results. What
was predicted before a kill is kept in /checkpoint, where there is one, and not done again.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

from multi_abnormality import console, predict
from multi_abnormality.data.io.read import SUFFIXES, scan_name
from multi_abnormality.errors import InputError, raise_faults
from multi_abnormality.evaluation.predictions import write_predictions
from multi_abnormality.predict.journal import Journal
from multi_abnormality.predict.many import predict_all
from multi_abnormality.predict.names import refuse_equal
from multi_abnormality.predict.scans import is_scan_file

RESULTS = ("results.json", "predictions.json")  # of one content: either name may be looked for


def main() -> None:
    given = _folders()
    _clear(given.output)
    model = predict.find_model(given.weights)
    predictor = predict.load(model)
    scans = _scans(given.input)
    with tempfile.TemporaryDirectory() as temporary:
        kept = given.checkpoint if os.access(given.checkpoint, os.W_OK) else Path(temporary)
        journal = Journal(kept / RESULTS[0], model)
        rows, faults = predict_all(predictor, scans, workers=1, journal=journal)
        raise_faults(faults, f"no results: {len(faults)} of {len(scans)} cases failed")
        probabilities = np.array([list(found.values()) for _, found in rows])
        for name in RESULTS:
            names = [case for case, _ in rows]
            write_predictions(given.output / name, names, probabilities, predictor.card.findings)
        journal.close(finished=True)
    console.log.info("%s: %d cases", given.output / RESULTS[0], len(rows))


def _clear(output: Path) -> None:
    """Earlier results must not stand for this run's; and these must have a place."""
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


def _scans(folder: Path) -> dict[Path, str]:
    """The scans in a folder, and their names; what else is in it is told.

    One below it would be missed, and two of one name be one case: refused.
    """
    try:
        found = sorted(folder.iterdir())
        scans = [path for path in found if is_scan_file(path)]
        below = [path for path in sorted(folder.glob("*/**/*")) if is_scan_file(path)]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    raise_faults([str(path) for path in below], f"{folder}: scans must lie in it, not in folders")
    if others := [path.name for path in found if path not in scans]:
        console.log.warning("%s: these are no scans: %s", folder, ", ".join(others))
    if not scans:
        raise InputError(f"{folder}: holds no scan; one of {', '.join(SUFFIXES)} is needed")
    names = {scan: scan_name(scan) for scan in scans}
    refuse_equal(names, f"{folder}: results name cases without suffix")
    return names


if __name__ == "__main__":
    console.run(main)
