"""The 18 probabilities of any chest CT scan, from the exported ONNX model.

python -m multi_abnormality.predict SCAN... [--model FILE] [--json | --csv]
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from multi_abnormality import console
from multi_abnormality.data.resample import standardize
from multi_abnormality.data.volume import read_volume, scan_name
from multi_abnormality.errors import InputError, raise_faults
from multi_abnormality.params import Recipe

if TYPE_CHECKING:
    import onnxruntime

METADATA_KEY = "multi_abnormality"
MODEL_FOLDER = Path("model_weights")
POSITIVE = 0.5  # the challenge's own threshold
BAR_WIDTH = 30  # characters

Prediction = tuple[str, dict[str, float]]  # scan name, probability of each finding


class ModelCard(BaseModel):
    """What the exported model says of itself, under METADATA_KEY."""

    version: str
    findings: tuple[str, ...]
    preprocess: Recipe


class Predictor:
    """A model and its preprocessing: call it with a scan's path."""

    def __init__(self, session: "onnxruntime.InferenceSession", card: ModelCard) -> None:
        self.session = session
        self.card = card

    def __call__(self, scan: Path) -> dict[str, float]:
        """Probability of each finding, in the model's order.

        Raises:
            InputError: the scan cannot be read, or is no chest CT in HU.
        """
        codes = standardize(read_volume(scan), self.card.preprocess)
        (probabilities,) = self.session.run(["probabilities"], {"volume": codes[None]})
        return dict(zip(self.card.findings, map(float, probabilities[0]), strict=True))


def load(path: Path) -> Predictor:
    """Load an exported ONNX model.

    Raises:
        InputError: not a model that this project exported.
    """
    import onnxruntime  # 0.2 s that `--help` need not wait for

    if not path.is_file():
        raise InputError(f"{path}: there is no such model; make it by `dvc repro` or `dvc pull`")
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no other base class
        raise InputError(f"{path}: is no valid ONNX model ({error}); export it again") from None
    return Predictor(session, _card(session, path))


def _card(session: "onnxruntime.InferenceSession", path: Path) -> ModelCard:
    metadata = session.get_modelmeta().custom_metadata_map
    if METADATA_KEY not in metadata:
        raise InputError(
            f"{path}: has no metadata under {METADATA_KEY!r}, so it was not exported by this "
            "project; choose a model_<backbone>.onnx from model_weights/"
        )
    try:
        card = ModelCard.model_validate_json(metadata[METADATA_KEY])
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise_faults(faults, f"{path}: has wrong metadata; export it again")
        raise
    expected = {
        "volume": ("tensor(uint8)", [*card.preprocess.shape]),
        "probabilities": ("tensor(float)", [len(card.findings)]),
    }
    ports = (*session.get_inputs(), *session.get_outputs())
    found = {port.name: (port.type, port.shape[1:]) for port in ports}
    if found != expected:
        raise InputError(f"{path}: has ports {found}, not {expected}; export it again")
    return card


def find_model(folder: Path = MODEL_FOLDER) -> Path:
    """The one ONNX model in a folder.

    Raises:
        InputError: there is none, or several.
    """
    models = sorted(folder.glob("*.onnx"))
    if not models:
        raise InputError(
            f"{folder}: holds no .onnx model; make it by `dvc repro` or fetch it by `dvc pull`"
        )
    if len(models) > 1:
        names = ", ".join(str(model) for model in models)
        raise InputError(f"{folder}: holds several models; choose one by --model: {names}")
    return models[0]


def predict_all(predictor: Predictor, scans: Sequence[Path]) -> tuple[list[Prediction], list[str]]:
    """Predict every scan that can be read; the others' faults are the second result."""
    predictions, faults = [], []
    steps = console.track(scans, "predict", len(scans), "scans") if len(scans) > 1 else scans
    for scan in steps:
        try:
            predictions.append((scan_name(scan), predictor(scan)))
        except InputError as error:
            faults.append(str(error))
    return predictions, faults


def write_json(predictions: Sequence[Prediction]) -> None:
    rows = [
        {"input_image_name": name, "probabilities": probabilities}
        for name, probabilities in predictions
    ]
    sys.stdout.write(json.dumps({"predictions": rows}, indent=2) + "\n")


def write_csv(predictions: Sequence[Prediction], findings: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["VolumeName", *findings])
    writer.writerows([name, *probabilities.values()] for name, probabilities in predictions)


def write_tables(predictions: Sequence[Prediction]) -> None:
    """A table a scan, the likeliest finding first, those of at least POSITIVE marked."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    screen = Console()
    for name, probabilities in predictions:
        table = Table(title=Text(name), title_justify="left", box=None, pad_edge=False)
        for column, side in (("Finding", "left"), ("Probability", "right"), ("", "left")):
            table.add_column(column, justify=side, no_wrap=True)
        for finding, value in sorted(probabilities.items(), key=lambda item: -item[1]):
            positive = value >= POSITIVE
            table.add_row(
                f"{'●' if positive else ' '} {finding}",
                f"{value:.3f}",
                "█" * round(value * BAR_WIDTH),
                style="bold red" if positive else "",
            )
        screen.print(table, end="\n\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m multi_abnormality.predict", description=__doc__
    )
    parser.add_argument(
        "scans", nargs="+", type=Path, metavar="SCAN", help=".nii(.gz), .mha or a DICOM folder"
    )
    parser.add_argument("--model", type=Path, help="default: the one .onnx in model_weights/")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the challenge's JSON")
    form.add_argument("--csv", action="store_true", help="print a row a scan")
    options = parser.parse_args()
    predictor = load(options.model or find_model())
    predictions, faults = predict_all(predictor, options.scans)
    if options.json:
        write_json(predictions)
    elif options.csv:
        write_csv(predictions, predictor.card.findings)
    else:
        write_tables(predictions)
    raise_faults(faults, f"{len(faults)} of {len(options.scans)} scans could not be predicted")


if __name__ == "__main__":
    console.run(main)
