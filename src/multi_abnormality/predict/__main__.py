"""`python -m multi_abnormality.predict`: the model's probabilities of chest CT scans."""

import argparse
import gc
import sys
from pathlib import Path

from multi_abnormality import console

MAX_MEMORY = 10_000  # GB


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m multi_abnormality.predict",
        description="Calibrated probabilities of the findings in chest CT scans, and which of them "
        "are positive, from the exported model.",
        parents=[console.options()],
    )
    parser.add_argument(
        "scans", nargs="+", type=Path, metavar="SCAN",
        help="NIfTI, MetaImage or NRRD file, DICOM file (means its series), .zip of a series, "
        "folder of these, pattern in quotes",
    )  # fmt: skip
    parser.add_argument(
        "--series", action="append", default=[], metavar="SERIES",
        help="DICOM series to predict where a folder holds several, by number, description or "
        "SeriesInstanceUID; may be repeated (default: those that may be CT of a chest)",
    )  # fmt: skip
    parser.add_argument("--model", type=Path, help="default: the one .onnx in model_weights/")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--csv", action="store_true", help="print CSV, one row per scan")
    form.add_argument(
        "--out", type=Path, metavar="FILE",
        help=".json or .csv; after a kill the same command resumes where it was",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=1, help="scans at a time (1)")
    parser.add_argument(
        "--memory", type=float, metavar="GB",
        help="memory that the model may take, beside its weights (default: 3 for each worker)",
    )  # fmt: skip
    parser.add_argument(
        "--explain", type=Path, metavar="DIR",
        help="write the slices that speak for each positive finding",
    )  # fmt: skip
    parser.add_argument(
        "--names-below", type=Path, metavar="DIR",
        help="name each scan by its path below DIR, as a table of own scans in data.scans does",
    )  # fmt: skip
    options = parser.parse_args()
    if options.workers < 1:
        parser.error("--workers must be at least 1")
    if options.memory is not None and not 0 < options.memory < MAX_MEMORY:
        parser.error(f"--memory must be between 0 and {MAX_MEMORY} GB")
    if options.out and options.out.suffix not in (".json", ".csv"):
        parser.error("--out must end with .json or .csv")
    if options.explain and options.explain.exists() and not options.explain.is_dir():
        parser.error(f"--explain: {options.explain} is a file; name a folder")
    return options


def main() -> None:
    options = _options()
    gc.set_threshold(50_000)  # with the default, the imports set off 200 collections: 70 ms
    from concurrent.futures import ThreadPoolExecutor

    from multi_abnormality.errors import raise_faults
    from multi_abnormality.evaluation.predictions import predictions_json
    from multi_abnormality.files import write_durably
    from multi_abnormality.memory import keep_freed_memory
    from multi_abnormality.predict.journal import Journal
    from multi_abnormality.predict.many import predict_all
    from multi_abnormality.predict.model import MEMORY, find_model, load
    from multi_abnormality.predict.names import name_scans
    from multi_abnormality.predict.scans import find_scans
    from multi_abnormality.predict.tell import as_csv, print_tables

    keep_freed_memory()  # for the next slice
    model = options.model or find_model()
    with ThreadPoolExecutor(1) as pool:
        # ONNX Runtime builds its session without Python's lock, so the scans are found meanwhile.
        loading = pool.submit(load, model, options.memory or MEMORY * options.workers)
        found = find_scans(options.scans, options.series)
        scans = name_scans(found.scans, options.names_below)
        predictor = loading.result()
    card = predictor.card
    journal = Journal(options.out, model) if options.out else None
    rows, faults = predict_all(predictor, scans, options.workers, journal, options.explain)
    is_json = options.json or (options.out and options.out.suffix == ".json")
    thresholds = {finding: card.thresholds[finding] for finding in card.findings}
    if is_json:
        text = predictions_json(rows, thresholds, card.synthetic)
    else:
        text = as_csv(rows, thresholds)
    if journal:
        write_durably(text.encode(), options.out)
        journal.close(finished=not (found.unused or found.faults or faults))
        console.log.info("%s: %d scans", options.out, len(rows))
    elif options.json or options.csv:
        sys.stdout.write(text)
    else:
        print_tables(rows, thresholds)
    gc.freeze()  # the last collection, of all that is imported, would take 150 ms
    # Not among them: a --series that fits none, and pictures that could not be written.
    failed = len(found.faults) + len(scans) - len(rows)
    count = len(found.faults) + len(scans)
    title = (
        f"{failed} of {count} scans could not be predicted"
        if failed
        else f"{count} scans were predicted"
    )
    others = len(found.unused) + len(faults) - (len(scans) - len(rows))
    if others:
        title += f"; {others} other error{'s' * (others > 1)}"
    raise_faults([*found.unused, *found.faults, *faults], title)


if __name__ == "__main__":
    console.run(main)
