"""`multi-abnormality predict`: findings in chest CT scans from an exported model."""

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multi_abnormality.data.io.reader_registry import FORMATS
from multi_abnormality.utils import console
from multi_abnormality.utils.errors import plural, raise_errors

if TYPE_CHECKING:
    from multi_abnormality.inference.input_scans import FoundScans

MAX_MEMORY = 10_000  # GB
# Optional dependencies that pydicom imports if they are installed, which takes 0.15 s: for
# downloads, and for decoding, which another program does (data/io/dicom_decoder.py). Only the
# command hides them: a program that uses the Python API may need them itself.
_UNUSED = ("gdcm", "openjpeg", "requests", "tqdm")


def _check_options(
    json: bool, csv: bool, out: Path | None, memory: float | None, explain: Path | None
) -> None:
    """Raise BadParameter for options that contradict each other, before anything is read."""
    if json + csv + (out is not None) > 1:
        raise typer.BadParameter("only one of them can be given", param_hint="--json, --csv, --out")
    if out and out.suffix not in (".json", ".csv"):
        raise typer.BadParameter("must end with .json or .csv", param_hint="--out")
    if memory is not None and not 0 < memory < MAX_MEMORY:
        raise typer.BadParameter(f"must be between 0 and {MAX_MEMORY} GB", param_hint="--memory")
    if explain and explain.exists() and not explain.is_dir():
        raise typer.BadParameter(f"{explain} is a file; name a folder", param_hint="--explain")


def predict(
    scans: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCAN",
            help=f"{', '.join(one.name for one in FORMATS)} or DICOM file (for its whole series), "
            ".zip of a series, folder of these, or pattern in quotes.",
        ),
    ],
    series: Annotated[
        list[str] | None,
        typer.Option(
            help="DICOM series to predict where a folder holds several, by number, description or "
            "SeriesInstanceUID; may be repeated. Default: those that may be CT of a chest."
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="ONNX file, or folder with one; default: model_weights/.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one row per scan.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write to a .json or .csv file; after an interruption the same command resumes.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Scans predicted in parallel.")] = 1,
    memory: Annotated[
        float | None,
        typer.Option(
            metavar="GB",
            help="Memory limit of the model, without its weights; default: 3 per worker.",
        ),
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write a page for each scan with slices and heat maps of its positive findings.",
        ),
    ] = None,
    names_below: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Name each scan by its path below DIR, as in a table of own scans."
        ),
    ] = None,
) -> None:
    """Predict the findings in chest CT scans.

    An exported model gives calibrated probabilities and decisions.
    """
    _check_options(json, csv, out, memory, explain)
    gc.set_threshold(50_000)  # with the default, imports trigger 200 collections: 70 ms
    for name in _UNUSED:
        sys.modules[name] = None  # type: ignore[assignment]  # an import raises ImportError
    from concurrent.futures import ThreadPoolExecutor

    from multi_abnormality.evaluation.prediction_files import predictions_json
    from multi_abnormality.inference.batch_prediction import predict_all
    from multi_abnormality.inference.input_scans import find_scans
    from multi_abnormality.inference.output import as_csv, print_tables
    from multi_abnormality.inference.predictor import MEMORY, MODEL_FOLDER, load_model
    from multi_abnormality.inference.progress_log import ProgressLog
    from multi_abnormality.inference.scan_id import name_scans
    from multi_abnormality.utils.atomic_io import atomic_write
    from multi_abnormality.utils.system_memory import tune_malloc

    tune_malloc()
    with ThreadPoolExecutor(1) as pool:
        # ONNX Runtime releases the GIL while it loads the model; find the scans meanwhile.
        loading = pool.submit(load_model, model or MODEL_FOLDER, memory or MEMORY * workers)
        found = find_scans(scans, series or [])
        named = name_scans(found.scans, names_below)
        loaded = loading.result()
    progress = ProgressLog(out, loaded.path) if out else None
    rows, errors = predict_all(loaded, named, workers, progress, explain)
    thresholds, uncalibrated = loaded.thresholds, loaded.card.uncalibrated
    if json or (out and out.suffix == ".json"):
        text = predictions_json(rows, thresholds, uncalibrated, loaded.is_synthetic)
    elif csv or out:
        text = as_csv(rows, thresholds, uncalibrated)
    if progress and out:
        atomic_write(text.encode(), out)
        progress.close(finished=not (found.unused or found.faults or errors))
        console.log.info("%s: %s", out, plural(len(rows), "scan", "scans"))
    elif json or csv:
        sys.stdout.write(text)
    else:
        print_tables(rows, thresholds, uncalibrated)
    gc.freeze()  # the last collection would take 150 ms
    _raise_errors(found, len(named) - len(rows), len(named), errors)


def _raise_errors(found: "FoundScans", unpredicted: int, readable: int, errors: list[str]) -> None:
    """Raise one InputError that lists all errors, if there are any.

    A --series without a match and a picture that could not be written are not scans.
    """
    count, failed = len(found.faults) + readable, len(found.faults) + unpredicted
    title = f"{plural(count, 'scan was', 'scans were')} predicted"
    if failed:
        title = f"{failed} of {plural(count, 'scan', 'scans')} could not be predicted"
    if others := len(found.unused) + len(errors) - unpredicted:
        title += f"; {plural(others, 'other error', 'other errors')}"
    raise_errors([*found.unused, *found.faults, *errors], title)
