"""Predictions of many scans."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from multi_abnormality import console
from multi_abnormality.errors import InputError
from multi_abnormality.predict.explain import is_explained, write_explanation
from multi_abnormality.predict.journal import Journal
from multi_abnormality.predict.model import Predictor
from multi_abnormality.predict.tell import Row


def predict_all(
    predictor: Predictor,
    scans: Mapping[Path, str],
    workers: int = 1,
    journal: Journal | None = None,
    pictures: Path | None = None,
) -> tuple[list[Row], list[str]]:
    """Predict every scan that can be read.

    Args:
        predictor: the model.
        scans: files and folders, and what each is called.
        workers: scans at a time.
        journal: of what is done already, and takes what is done now.
        pictures: folder for the slices that speak for each finding.

    Returns:
        Rows in the scans' order, and the faults of the others.
    """

    def one(scan: Path) -> Row | str:
        name = scans[scan]
        known = journal.find(scan) if journal else None
        if known and (not pictures or is_explained(known.probabilities, pictures / name)):
            _tell(known.doubt)
            return name, known.probabilities
        try:
            prediction = predictor.predict(scan)
        except InputError as error:
            return str(error)
        _tell(prediction.doubt)
        if pictures:
            recipe = predictor.card.preprocess
            write_explanation(prediction, recipe, pictures / name)
        if journal:
            journal.add(scan, prediction)
        return name, prediction.probabilities

    with ThreadPoolExecutor(workers) as pool:
        results = list(_track(pool.map(one, scans), len(scans)))
    rows = [result for result in results if not isinstance(result, str)]
    return rows, [result for result in results if isinstance(result, str)]


def _tell(doubt: str | None) -> None:
    if doubt:
        console.log.warning("%s", doubt)


def _track(results: Iterator[Row | str], count: int) -> Iterator[Row | str]:
    return console.track(results, "predict", count, "scans") if count > 1 else results
