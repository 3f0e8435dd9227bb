"""`multi-abnormality predict`: findings in chest CT scans from an exported model."""

import argparse
import gc
import sys
from pathlib import Path

from multi_abnormality.data.io.reader_registry import FORMATS
from multi_abnormality.utils import console

MAX_MEMORY = 10_000  # GB
# Optional dependencies that pydicom and numpy import, which takes 0.15 s, for functions that
# predict does not use: it decodes DICOM in another program (data/io/dicom_decoder.py).
_UNUSED = ("charset_normalizer", "gdcm", "openjpeg", "requests", "tqdm")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="multi-abnormality predict",
        description="Predict the findings in chest CT scans with an exported model: calibrated "
        "probabilities and decisions.",
        parents=[console.options()],
    )
    parser.add_argument(
        "scans", nargs="+", type=Path, metavar="SCAN",
        help=f"{', '.join(one.name for one in FORMATS)} or DICOM file (for its whole series), .zip "
        "of a series, folder of these, or pattern in quotes",
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
        help="write to a .json or .csv file; after an interruption the same command resumes",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, default=1, help="scans predicted in parallel (default: 1)"
    )
    parser.add_argument(
        "--memory", type=float, metavar="GB",
        help="memory limit of the model, without its weights (default: 3 per worker)",
    )  # fmt: skip
    parser.add_argument(
        "--explain", type=Path, metavar="DIR",
        help="write the slices with the highest attention for each positive finding",
    )  # fmt: skip
    parser.add_argument(
        "--names-below", type=Path, metavar="DIR",
        help="name each scan by its path below DIR, as in a table of own scans",
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
    gc.set_threshold(50_000)  # with the default, imports trigger 200 collections: 70 ms
    for name in _UNUSED:
        sys.modules[name] = None  # type: ignore[assignment]  # an import raises ImportError
    from concurrent.futures import ThreadPoolExecutor

    from multi_abnormality.evaluation.predictions import predictions_json
    from multi_abnormality.inference.batch_prediction import predict_all
    from multi_abnormality.inference.input_scans import find_scans
    from multi_abnormality.inference.output import as_csv, print_tables
    from multi_abnormality.inference.predictor import MEMORY, find_model, load
    from multi_abnormality.inference.progress_log import ProgressLog
    from multi_abnormality.inference.scan_id import name_scans
    from multi_abnormality.utils.atomic_io import atomic_write
    from multi_abnormality.utils.errors import raise_errors
    from multi_abnormality.utils.system_memory import tune_malloc

    tune_malloc()
    model = options.model or find_model()
    with ThreadPoolExecutor(1) as pool:
        # ONNX Runtime releases the GIL while it loads the model; find the scans meanwhile.
        loading = pool.submit(load, model, options.memory or MEMORY * options.workers)
        found = find_scans(options.scans, options.series)
        scans = name_scans(found.scans, options.names_below)
        predictor = loading.result()
    card = predictor.card
    progress = ProgressLog(options.out, model) if options.out else None
    rows, errors = predict_all(predictor, scans, options.workers, progress, options.explain)
    is_json = options.json or (options.out and options.out.suffix == ".json")
    thresholds = {finding: card.thresholds[finding] for finding in card.findings}
    if is_json:
        text = predictions_json(rows, thresholds, card.uncalibrated, card.synthetic)
    else:
        text = as_csv(rows, thresholds, card.uncalibrated)
    if progress:
        atomic_write(text.encode(), options.out)
        progress.close(finished=not (found.unused or found.faults or errors))
        console.log.info("%s: %d scans", options.out, len(rows))
    elif options.json or options.csv:
        sys.stdout.write(text)
    else:
        print_tables(rows, thresholds, card.uncalibrated)
    gc.freeze()  # the last collection would take 150 ms
    # A --series without a match and a picture that could not be written are other errors.
    failed = len(found.faults) + len(scans) - len(rows)
    count = len(found.faults) + len(scans)
    title = (
        f"{failed} of {count} scans could not be predicted"
        if failed
        else f"{count} scans were predicted"
    )
    others = len(found.unused) + len(errors) - (len(scans) - len(rows))
    if others:
        title += f"; {others} other error{'s' * (others > 1)}"
    raise_errors([*found.unused, *found.faults, *errors], title)


if __name__ == "__main__":
    console.run(main)
