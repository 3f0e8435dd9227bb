"""Batch prediction."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from multi_abnormality.inference.output import Row
from multi_abnormality.inference.predictor import Model
from multi_abnormality.inference.progress_log import ProgressLog, scan_key
from multi_abnormality.inference.scan_id import NamedScan
from multi_abnormality.utils import console
from multi_abnormality.utils.errors import InputError

T = TypeVar("T")


class _Result(NamedTuple):
    """Row or error of one scan; both if only its pictures could not be written."""

    row: Row | None = None
    error: str | None = None


def predict_all(
    model: Model,
    scans: Sequence[NamedScan],
    workers: int = 1,
    progress: ProgressLog | None = None,
    pictures: Path | None = None,
) -> tuple[list[Row], list[str]]:
    """Predict every scan; an error in one does not affect the others.

    Args:
        model: loaded model.
        scans: scans with their names.
        workers: number of scans predicted in parallel.
        progress: log of finished predictions, which are reused; new ones are added.
        pictures: directory for the slices with the highest attention for each positive finding.

    Returns:
        Rows in the order of the scans, and the errors.

    Raises:
        InputError: the progress log cannot be written.
        ModuleNotFoundError: a package is missing.
    """

    if pictures:  # imported here, as Pillow takes 20 ms
        from multi_abnormality.inference.slice_images import is_explained, write_explanation

    def predict_one(scan: NamedScan) -> _Result:
        name, source = scan
        folder = pictures / console.printable(name) if pictures else None
        key = scan_key(source) if progress else None
        cached = progress.done.get(key) if progress and key else None
        if cached and (not folder or is_explained(cached.probabilities, model.card, folder)):
            _warn(cached.warnings)
            return _Result((name, cached.probabilities))
        prediction, error = _catch_errors(source.path, lambda: model.predict(source))
        if prediction is None:
            return _Result(error=error)
        _warn(prediction.warnings)
        if progress and not cached:
            progress.add(key, prediction)
        if folder:
            recipe = model.card.preprocess
            _, error = _catch_errors(
                source.path, lambda: write_explanation(prediction, recipe, folder)
            )
        return _Result((name, prediction.probabilities), error)

    with ThreadPoolExecutor(workers) as pool:
        results: Iterable[_Result] = pool.map(predict_one, scans)
        if len(scans) > 1:
            results = console.track(results, "predict", len(scans), "scans")
        results = list(results)
    rows = [result.row for result in results if result.row]
    return rows, [result.error for result in results if result.error]


def _catch_errors(path: Path, function: Callable[[], T]) -> tuple[T | None, str | None]:
    """Call a function; return its result, or its error with the name of the scan."""
    try:
        return function(), None
    except ModuleNotFoundError:  # of every scan
        raise
    except InputError as error:
        return None, console.escape_path(str(error), path)
    except Exception as error:  # such as a decoder's
        return None, console.escape_path(console.describe_failure(path, error), path)


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        console.log.warning("%s", warning)
