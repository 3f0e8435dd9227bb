"""Batch prediction."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.io.reader_registry import format_of
from multi_abnormality.data.io.scan_sources import ScanSource, resolve_scan
from multi_abnormality.inference.onnx_model import Model
from multi_abnormality.inference.output import Row
from multi_abnormality.inference.progress_log import CachedPrediction, ProgressLog, scan_key
from multi_abnormality.inference.scan_id import NamedScan
from multi_abnormality.utils import console
from multi_abnormality.utils.errors import InputError

T = TypeVar("T")


class _Result(NamedTuple):
    """Prediction or error of one scan; both if only its pictures could not be written."""

    name: str
    prediction: CachedPrediction | None = None
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
        pictures: directory for the pages that explain each scan's positive findings.

    Returns:
        Rows in the order of the scans, and the errors.

    Raises:
        InputError: the progress log cannot be written, or the model cannot be explained.
        ModuleNotFoundError: a package is missing.
    """
    predictions, errors = predict_details(model, scans, workers, progress, pictures)
    return [(name, one.probabilities) for name, one in predictions.items()], errors


def predict_details(
    model: Model,
    scans: Sequence[NamedScan],
    workers: int = 1,
    progress: ProgressLog | None = None,
    pictures: Path | None = None,
) -> tuple[dict[str, CachedPrediction], list[str]]:
    """Predict every scan as `predict_all` does; return predictions by name, and the errors.

    A scan whose DICOM series is not known yet is resolved when its turn comes.
    """
    if pictures:  # imported here, as Pillow and Jinja take 80 ms
        from multi_abnormality.inference.explanation import require_explainable
        from multi_abnormality.inference.explanation_files import is_explained, write_explanation

        require_explainable(model)

    def predict_one(scan: NamedScan) -> _Result:
        name, path = scan.name, scan.source.path
        folder = pictures / console.printable(name) if pictures else None
        source, error = _catch_errors(path, lambda: _resolved(scan.source))
        if source is None:
            return _Result(name, error=error)
        key = scan_key(source) if progress else None
        cached = progress.done.get(key) if progress and key else None
        if cached and (not folder or is_explained(cached.probabilities, model.card, folder)):
            _warn(cached.warnings)
            return _Result(name, cached)
        volume, error = _catch_errors(path, lambda: read_volume(source)) if folder else (None, None)
        if error:
            return _Result(name, error=error)
        prediction, error = _catch_errors(
            path,
            lambda: model.predict_volume(path, volume) if volume else model.predict(source),
        )
        if prediction is None:
            return _Result(name, error=error)
        _warn(prediction.warnings)
        if progress and not cached:
            progress.add(key, prediction)
        if folder and volume:
            files = model, console.printable(name), source, volume, prediction, folder
            _, error = _catch_errors(path, lambda: write_explanation(*files))
        kept = (getattr(prediction, field) for field in CachedPrediction._fields)
        return _Result(name, CachedPrediction(*kept), error)

    with ThreadPoolExecutor(workers) as pool:
        results: Iterable[_Result] = pool.map(predict_one, scans)
        if len(scans) > 1:
            results = console.track(results, "predict", len(scans), "scans")
        results = list(results)
    predictions = {one.name: one.prediction for one in results if one.prediction}
    return predictions, [one.error for one in results if one.error]


def _resolved(source: ScanSource) -> ScanSource:
    """Return the scan with its DICOM series, if it is one."""
    is_known = source.series is not None or format_of(source.path) is not None
    return source if is_known else resolve_scan(source.path)


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
