"""Export stage: checkpoints/best.ckpt to model_weights/."""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from multi_abnormality.utils import console

if __name__ == "__main__":
    console.parse_stage_args()

import numpy as np
import torch

from multi_abnormality.backup.object_verification import verify_pulled
from multi_abnormality.config.schema import Params, PreprocessSpec, load_params, parse_section
from multi_abnormality.data.preprocessing.input_range import InputRange, length_of, lung_share
from multi_abnormality.data.preprocessing.quantization import code_table
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.evaluation.calibration import Calibration
from multi_abnormality.export.calibrated_classifier import CalibratedClassifier
from multi_abnormality.export.formats import FORMATS, Runner, file_stem, run_module, trace
from multi_abnormality.export.model_card import model_card
from multi_abnormality.export.model_info import (
    decision_info,
    model_info,
    running_info,
    training_hashes,
)
from multi_abnormality.export.model_info_schema import described_scores
from multi_abnormality.models.factory import build_for_export, restore_classifier
from multi_abnormality.runtime.checkpoint_io import BEST, held_out_fold, load_complete
from multi_abnormality.utils.atomic_io import atomic_write, write_json
from multi_abnormality.utils.errors import InputError

T = TypeVar("T")

N_COMPARED = 6  # volumes on which each exported model is compared with the checkpoint
MAX_MEASURED = 500  # volumes of the train split behind the input range


def run(
    params: Params, checkpoints: Path, processed: Path, metrics: Path, out: Path
) -> dict[str, Any]:
    """Write each format, run it, and record its difference from the checkpoint.

    Raises:
        InputError: a difference exceeds export.tolerance, or an input is missing.
    """
    checkpoint = load_complete(checkpoints / BEST)
    metadata = checkpoint["about"]
    calibration = _read(
        metrics / "calibration.json",
        lambda content: Calibration.from_json(content, metadata["findings"]),
    )
    scores = _read(metrics / "evaluate.json", described_scores)
    classifier = restore_classifier(checkpoint)
    model = CalibratedClassifier(classifier, calibration).eval()
    store = ProcessedDataset(processed, held_out_fold(metadata))
    store.check_matches_model(metadata)
    volumes = _volumes(store)
    running = running_info(metadata, _input_range(store))
    reference = run_module(model)(volumes)[0]

    def empty_model() -> CalibratedClassifier:
        return CalibratedClassifier(build_for_export(metadata), calibration)

    known = training_hashes(metadata, store.manifest) if params.export.training_hashes else None
    decisions = decision_info(calibration) | ({"training": known.content()} if known else {})
    runners = _write_all(
        params.export.formats, model, metadata, running, decisions, out, empty_model
    )
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in runners}
    described = model_info(
        metadata, running, classifier, calibration, scores, params.export, store.is_ct_rate, hashes,
        known,
    )  # fmt: skip
    write_json(described.content(), out / "model_info.json")
    atomic_write(model_card(described).encode(), out / "MODEL_CARD.md")
    report = _compare(runners, volumes, reference, params.export.tolerance)
    summary = {"volumes_compared": len(volumes), "formats": report}
    write_json(summary, metrics / "export.json")
    return summary


def _compare(
    runners: dict[Path, Runner], volumes: np.ndarray, reference: np.ndarray, tolerance: float
) -> dict[str, dict[str, float]]:
    """Return the largest difference from the reference probabilities, and the size, by format."""
    report: dict[str, dict[str, float]] = {}
    for path, runner in runners.items():
        # Attention is not compared: with max pooling, a last digit decides between two slices.
        difference = float(np.abs(runner(volumes)[0] - reference).max())
        report[path.suffix[1:]] = {"largest_difference": difference, "bytes": path.stat().st_size}
        console.log.info("%s: differs from the checkpoint by at most %.1e", path, difference)
        if not difference <= tolerance:
            raise InputError(
                f"{path}: differs from the checkpoint by {difference:.1e}, more than "
                f"export.tolerance ({tolerance:.1e}); leave this format out of export.formats, or "
                "raise the tolerance"
            )
    return report


def _write_all(
    names: tuple[str, ...],
    model: CalibratedClassifier,
    metadata: dict[str, Any],
    info: dict[str, Any],
    decisions: dict[str, Any],
    out: Path,
    empty_model: Callable[[], CalibratedClassifier],
) -> dict[Path, Runner]:
    """Write the formats with `info`, and load each from its file.

    Files with the graph also have `decisions` in their metadata: thresholds, and hashes of the
    training patients.
    """

    @functools.cache
    def graph() -> torch.export.ExportedProgram:
        return trace(model, tuple(metadata["preprocess"]["shape"]))

    chosen = [name for name in FORMATS if name in names]
    runners = {}
    for name in console.track(chosen, "export", len(chosen), "formats"):
        file_format = FORMATS[name]
        path = out / file_format.filename.format(file_stem(metadata["model"]["backbone"]))
        if file_format.has_graph:
            file_format.write(graph(), info | decisions, path)
        else:
            file_format.write(model, info, path)
        runners[path] = file_format.load(path, empty_model)
    return runners


def _read(path: Path, parse: Callable[[dict[str, Any]], T]) -> T:
    """Read a JSON file of the evaluate stage."""
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error!r}); run `dvc repro evaluate` to write it again"
        ) from error


def _input_range(processed: ProcessedDataset) -> InputRange:
    """Measure lung fraction and length of the training scans."""
    rows = processed.volumes("train")
    names = rows["name"].tolist()
    hu_of_code = code_table(parse_section(PreprocessSpec, processed.recipe))
    chosen = names[:: -(-len(names) // MAX_MEASURED)]
    sources = zip(rows["source_shape"], rows["source_spacing"], rows["source_axes"], strict=True)
    return InputRange.of(
        [lung_share(processed.read(name), hu_of_code) for name in chosen],
        [length_of(*source) for source in sources],
    )


def _volumes(processed: ProcessedDataset) -> np.ndarray:
    """Read some volumes of the test split, evenly spread over it."""
    names = processed.volumes("test")["name"].tolist()
    if not names:
        raise InputError(
            f"{processed.root}: holds no volume of the test split to compare the models on; add "
            "some to data/, then run `dvc repro`"
        )
    chosen = names[:: max(len(names) // N_COMPARED, 1)][:N_COMPARED]
    return np.stack([processed.read(name) for name in chosen])


def main() -> None:
    verify_pulled(Path())
    folders = Path("checkpoints"), Path("processed"), Path("metrics"), Path("model_weights")
    run(load_params(), *folders)
    console.log.info(
        "the model is in %s; `multi-abnormality predict SCAN` runs it on a scan", folders[-1]
    )


if __name__ == "__main__":
    console.run(main)
