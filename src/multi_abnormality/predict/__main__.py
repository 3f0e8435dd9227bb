"""`python -m multi_abnormality.predict`: the 18 probabilities of chest CT scans."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from multi_abnormality import console
from multi_abnormality.errors import InputError, raise_faults
from multi_abnormality.files import write_durably
from multi_abnormality.predict.explain import is_explained, write_explanation
from multi_abnormality.predict.journal import Journal
from multi_abnormality.predict.model import MODEL_FOLDER, Predictor, find_model, load
from multi_abnormality.predict.scans import find_scans
from multi_abnormality.predict.tell import Row, as_csv, as_json, print_tables


def predict_all(
    predictor: Predictor,
    scans: Sequence[Path],
    workers: int = 1,
    journal: Journal | None = None,
    pictures: Path | None = None,
) -> tuple[list[Row], list[str]]:
    """Predict every scan that can be read.

    Args:
        predictor: the model.
        scans: files and folders.
        workers: scans at a time.
        journal: of what is done already, and takes what is done now.
        pictures: folder for the slices that speak for each finding.

    Returns:
        Rows in the scans' order, and the faults of the others.
    """

    def one(scan: Path) -> Row | str:
        known = journal.find(scan) if journal else None
        if known and (not pictures or is_explained(*known.row, pictures)):
            _tell(known.doubt)
            return known.row
        try:
            prediction = predictor.predict(scan)
        except InputError as error:
            return str(error)
        _tell(prediction.doubt)
        if pictures:
            recipe = predictor.card.preprocess
            write_explanation(prediction, recipe, pictures / prediction.name)
        if journal:
            journal.add(scan, prediction)
        return prediction.name, prediction.probabilities

    with ThreadPoolExecutor(workers) as pool:
        results = list(_track(pool.map(one, scans), len(scans)))
    rows = [result for result in results if not isinstance(result, str)]
    return rows, [result for result in results if isinstance(result, str)]


def _tell(doubt: str | None) -> None:
    if doubt:
        console.log.warning("%s", doubt)


def _track(results: Iterator[Row | str], count: int) -> Iterator[Row | str]:
    return console.track(results, "predict", count, "scans") if count > 1 else results


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m multi_abnormality.predict",
        description="Probabilities of the findings in chest CT scans, from the exported model.",
    )
    parser.add_argument(
        "scans", nargs="+", type=Path, metavar="SCAN",
        help=".nii, .nii.gz, .mha, a DICOM series' folder, a folder of these, a pattern in quotes",
    )  # fmt: skip
    parser.add_argument("--model", type=Path, help=f"default: the one .onnx in {MODEL_FOLDER}/")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the challenge's JSON")
    form.add_argument("--csv", action="store_true", help="print a row a scan")
    form.add_argument(
        "--out", type=Path, metavar="FILE",
        help=".json or .csv; after a kill the same command goes on where it was",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=1, help="scans at a time (1)")
    parser.add_argument(
        "--explain", type=Path, metavar="DIR",
        help="write the slices that speak for each positive finding",
    )  # fmt: skip
    options = parser.parse_args()
    if options.workers < 1:
        parser.error("--workers must be at least 1")
    if options.out and options.out.suffix not in (".json", ".csv"):
        parser.error("--out must end with .json or .csv")
    return options


def main() -> None:
    options = _options()
    scans = find_scans(options.scans)
    model = options.model or find_model()
    predictor = load(model)
    journal = Journal(options.out, model) if options.out else None
    rows, faults = predict_all(predictor, scans, options.workers, journal, options.explain)
    is_json = options.json or (options.out and options.out.suffix == ".json")
    text = as_json(rows) if is_json else as_csv(rows, predictor.card.findings)
    if journal:
        write_durably(text.encode(), options.out)
        journal.close(finished=not faults)
        console.log.info("%s: %d scans", options.out, len(rows))
    elif options.json or options.csv:
        sys.stdout.write(text)
    else:
        print_tables(rows)
    raise_faults(faults, f"{len(faults)} of {len(scans)} scans could not be predicted")


if __name__ == "__main__":
    console.run(main)
