"""The export stage: checkpoints/best.ckpt to model_weights/."""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multi_abnormality import console

if __name__ == "__main__":
    console.take_stage_options()

import numpy as np
import torch

from multi_abnormality.backup.verification import verify_pulled
from multi_abnormality.data.codes import code_table
from multi_abnormality.data.composition import Familiar, length_of, lung_share
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.errors import InputError
from multi_abnormality.evaluation.calibration import Calibration
from multi_abnormality.export import formats
from multi_abnormality.export.calibrated import CalibratedClassifier
from multi_abnormality.export.card import model_card
from multi_abnormality.export.model_info import described_scores, model_info, running_info
from multi_abnormality.files import write_durably, write_json
from multi_abnormality.model.build import build_plain, restore
from multi_abnormality.params import Params, load_params, parse_section
from multi_abnormality.params_preprocess import Recipe
from multi_abnormality.training.checkpoints import BEST, load_complete

VOLUMES = 6  # on which each exported model is compared with the checkpoint
FILES = {  # of each format, by the backbone's name
    "pth": "model_weights_{}.pth",
    "safetensors": "model_{}.safetensors",
    "pt2": "complete_model_{}.pt2",
    "onnx": "model_{}.onnx",
}
MEASURED = 500  # volumes of the train split, at most, that say what a chest looks like


def run(
    params: Params, checkpoints: Path, processed: Path, metrics: Path, out: Path
) -> dict[str, Any]:
    """Write each format, run it again, and record how far it is from the checkpoint.

    Raises:
        InputError: a model is further off than export.tolerance, or what it is made of is missing.
    """
    checkpoint = load_complete(checkpoints / BEST)
    about = checkpoint["about"]
    calibration = Calibration.from_json(metrics / "calibration.json", about["findings"])
    scores = _read_scores(metrics / "evaluate.json")
    classifier = restore(checkpoint)
    model = CalibratedClassifier(classifier, calibration).eval()
    store = ProcessedSet(processed)
    store.check_trained_on(about)
    volumes = _volumes(store)
    running = running_info(about, _familiar(store))
    reference = formats.run_module(model)(volumes)[0]

    def empty_model() -> CalibratedClassifier:
        return CalibratedClassifier(build_plain(about), calibration)

    thresholds = dict(zip(calibration.findings, calibration.thresholds.tolist(), strict=True))
    complete = running | {"thresholds": thresholds}
    runners = _write_all(params.export.formats, model, about, running, complete, out, empty_model)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in runners}
    described = model_info(
        about, running, classifier, calibration, scores, params.export, store.is_ct_rate, hashes
    )
    write_json(described.content(), out / "model_info.json")
    write_durably(model_card(described).encode(), out / "MODEL_CARD.md")
    report = {}
    for path, runner in runners.items():
        # Attention is not compared: with max pooling, a last digit decides between two slices.
        difference = float(np.abs(runner(volumes)[0] - reference).max())
        report[path.suffix[1:]] = {"largest_difference": difference, "bytes": path.stat().st_size}
        console.log.info("%s: differs from the checkpoint by at most %.1e", path, difference)
        if not difference <= params.export.tolerance:
            raise InputError(
                f"{path}: differs from the checkpoint by {difference:.1e}, more than "
                f"export.tolerance ({params.export.tolerance:.1e}); leave this format out of "
                "export.formats, or allow more"
            )
    summary = {"volumes_compared": len(volumes), "formats": report}
    write_json(summary, metrics / "export.json")
    return summary


def _write_all(
    names: tuple[str, ...],
    model: CalibratedClassifier,
    about: dict[str, Any],
    info: dict[str, Any],
    complete_info: dict[str, Any],
    out: Path,
    empty_model: Callable[[], CalibratedClassifier],
) -> dict[Path, formats.Runner]:
    """Write the formats asked for, and load each back from its file.

    Files of weights alone carry `info`, files that also have the graph `complete_info`, with the
    thresholds that the graph has.
    """

    @functools.cache
    def program() -> torch.export.ExportedProgram:
        return formats.trace(model, tuple(about["preprocess"]["shape"]))

    def write(name: str, path: Path) -> formats.Runner:
        match name:
            case "pth":
                formats.write_pth(model, info, path)
                return formats.run_pth(path, empty_model())
            case "safetensors":
                formats.write_safetensors(model, info, path)
                return formats.run_safetensors(path, empty_model())
            case "pt2":
                formats.write_pt2(program(), complete_info, path)
                return formats.run_pt2(path)
            case _:
                formats.write_onnx(program(), complete_info, path)
                return formats.run_onnx(path)

    wanted = [name for name in FILES if name in names]
    runners = {}
    for name in console.track(wanted, "export", len(wanted), "formats"):
        path = out / FILES[name].format(about["model"]["backbone"])
        runners[path] = write(name, path)
    return runners


def _read_scores(path: Path) -> dict[str, Any]:
    """The scores that describe the model, out of all."""
    try:
        return described_scores(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error!r}); run `dvc repro evaluate` to write it again"
        ) from error


def _familiar(processed: ProcessedSet) -> Familiar:
    """What the scans of the train split are like."""
    rows = processed.volumes("train")
    names, hu_of_code = rows["name"].tolist(), code_table(parse_section(Recipe, processed.recipe))
    chosen = names[:: -(-len(names) // MEASURED)]
    sources = zip(rows["source_shape"], rows["source_spacing"], rows["source_axes"], strict=True)
    return Familiar.of(
        [lung_share(processed.read(name), hu_of_code) for name in chosen],
        [length_of(*source) for source in sources],
    )


def _volumes(processed: ProcessedSet) -> np.ndarray:
    """Some volumes of the valid split, evenly spread over it."""
    names = processed.volumes("valid")["name"].tolist()
    if not names:
        raise InputError(
            f"{processed.root}: holds no volume of the valid split to compare the models on; bring "
            "some to data/, then `dvc repro`"
        )
    chosen = names[:: max(len(names) // VOLUMES, 1)][:VOLUMES]
    return np.stack([processed.read(name) for name in chosen])


def main() -> None:
    verify_pulled(Path())
    folders = Path("checkpoints"), Path("processed"), Path("metrics"), Path("model_weights")
    run(load_params(), *folders)
    console.log.info(
        "%s has the model; `python -m multi_abnormality.predict SCAN` asks it about a scan",
        folders[-1],
    )


if __name__ == "__main__":
    console.run(main)
