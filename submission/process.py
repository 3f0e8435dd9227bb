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
from multi_abnormality.data.io.reader_registry import SUFFIXES, scan_name
from multi_abnormality.data.io.scan_sources import ScanSource
from multi_abnormality.errors import InputError, raise_faults
from multi_abnormality.evaluation.predictions import write_submission
from multi_abnormality.evaluation.thresholds import submission_probabilities
from multi_abnormality.predict.journal import Journal
from multi_abnormality.predict.many import predict_all
from multi_abnormality.predict.names import NamedScan, refuse_equal

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
        card = predictor.card
        probabilities = submission_probabilities(
            np.array([list(found.values()) for _, found in rows]),
            np.array([card.thresholds[finding] for finding in card.findings]),
        )
        for name in RESULTS:
            names = [case for case, _ in rows]
            write_submission(given.output / name, names, probabilities, card.findings)
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


def _scans(folder: Path) -> list[NamedScan]:
    """The scans in a folder, and their names; a warning names what else is in it.

    One below it would be missed, and two of one name be one case: refused.
    """
    try:
        found = sorted(folder.iterdir())
        scans = [path for path in found if _is_scan_file(path)]
        below = [path for path in sorted(folder.glob("*/**/*")) if _is_scan_file(path)]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    raise_faults([str(path) for path in below], f"{folder}: scans must lie in it, not in folders")
    if others := [path.name for path in found if path not in scans]:
        console.log.warning("%s: these are no scans: %s", folder, ", ".join(others))
    if not scans:
        raise InputError(f"{folder}: holds no scan; one of {', '.join(SUFFIXES)} is needed")
    named = [NamedScan(scan_name(scan), ScanSource(scan)) for scan in scans]
    refuse_equal(named, f"{folder}: results name cases without suffix")
    return named


def _is_scan_file(path: Path) -> bool:
    """Whether it is named as scans are; Macs put a "._case.mha" beside each of them."""
    return path.name.lower().endswith(SUFFIXES) and path.name[0] != "." and not path.is_dir()


if __name__ == "__main__":
    console.run(main)
