"""Predictions of many scans."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from multi_abnormality import console
from multi_abnormality.errors import InputError
from multi_abnormality.predict.explain import is_explained, write_explanation
from multi_abnormality.predict.journal import Journal, scan_key
from multi_abnormality.predict.model import Predictor
from multi_abnormality.predict.names import NamedScan
from multi_abnormality.predict.tell import Row

T = TypeVar("T")


class _Result(NamedTuple):
    """What became of one scan. Both are there where only its pictures could not be made."""

    row: Row | None = None
    fault: str | None = None


def predict_all(
    predictor: Predictor,
    scans: Sequence[NamedScan],
    workers: int = 1,
    journal: Journal | None = None,
    pictures: Path | None = None,
) -> tuple[list[Row], list[str]]:
    """Predict every scan that can be read, whatever happens with the others.

    Args:
        predictor: the model.
        scans: each with its name.
        workers: scans at a time.
        journal: of what is done already, and takes what is done now.
        pictures: folder for the slices that speak for each finding.

    Returns:
        Rows in the scans' order, and the errors of the others.

    Raises:
        InputError: the journal cannot be written.
    """

    thresholds = predictor.card.thresholds

    def one(scan: NamedScan) -> _Result:
        name, source = scan
        folder = pictures / console.printable(name) if pictures else None
        key = scan_key(source) if journal else None
        known = journal.find(key) if journal else None
        if known and (not folder or is_explained(known.probabilities, thresholds, folder)):
            _warn(known.doubt)
            return _Result((name, known.probabilities))
        prediction, fault = _guarded(source.path, lambda: predictor.predict(source))
        if prediction is None:
            return _Result(fault=fault)
        _warn(prediction.doubt)
        if journal and not known:
            journal.add(key, prediction)
        if folder:
            recipe = predictor.card.preprocess
            _, fault = _guarded(source.path, lambda: write_explanation(prediction, recipe, folder))
        return _Result((name, prediction.probabilities), fault)

    with ThreadPoolExecutor(workers) as pool:
        results = list(_track(pool.map(one, scans), len(scans)))
    rows = [result.row for result in results if result.row]
    return rows, [result.fault for result in results if result.fault]


def _guarded(path: Path, do: Callable[[], T]) -> tuple[T | None, str | None]:
    """Return the result or, whatever was raised, an error that names the scan."""
    try:
        return do(), None
    except InputError as error:
        return None, console.escape_path(str(error), path)
    except Exception as error:  # of a decoder, say: the other scans need not suffer
        return None, console.escape_path(console.describe_failure(path, error), path)


def _warn(doubt: str | None) -> None:
    if doubt:
        console.log.warning("%s", doubt)


def _track(results: Iterator[_Result], count: int) -> Iterator[_Result]:
    return console.track(results, "predict", count, "scans") if count > 1 else results
