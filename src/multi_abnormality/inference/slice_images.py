"""Pictures of the slices with the highest attention for each positive finding."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from multi_abnormality.evaluation.slice_rendering import apply_window, in_scan, jpeg
from multi_abnormality.evaluation.threshold_selection import decide
from multi_abnormality.utils.atomic_io import atomic_write

if TYPE_CHECKING:
    from multi_abnormality.data.preprocessing.quantization import Recipe
    from multi_abnormality.inference.onnx_metadata import ModelCard
    from multi_abnormality.inference.onnx_model import Prediction

SLICES = 3  # with the highest attention, shown from feet to head
EXPLANATION = "explanation.json"


def write_explanation(prediction: "Prediction", recipe: "Recipe", folder: Path) -> None:
    """Write a JPEG file for each positive finding, and explanation.json, which describes them.

    Padding is never shown. Slice positions are in mm from the scan's centre towards the head,
    since the model's slices differ from the file's.

    Args:
        prediction: prediction of a scan.
        recipe: preprocessing of the model.
        folder: output directory of this scan.
    """
    shown = {}
    volume, inside = prediction.volume, in_scan(prediction.volume)
    for finding, attention in zip(prediction.findings, prediction.attention, strict=True):
        name = finding.name
        if not finding.positive:
            (folder / f"{name}.jpg").unlink(missing_ok=True)  # left by another model
            continue
        above_middle = np.arange(len(attention)) - (len(attention) - 1) / 2
        # With max pooling one slice has all attention, with mean pooling all are equal.
        order = np.lexsort((np.abs(above_middle), -attention, ~inside))[:SLICES]
        counts = inside[order] & (attention[order] > 0)
        counts[0] = True  # if all attention is on padding
        chosen = sorted(order[counts].tolist())
        spacing = {"spacing": recipe.spacing}
        pictures = [apply_window(volume[z], name, spacing) for z in chosen]
        atomic_write(jpeg(np.concatenate(pictures, axis=1)), folder / f"{name}.jpg")
        shown[name] = {
            "probability": finding.probability,
            "threshold": finding.threshold,
            "attention_on_padding": float(attention[~inside].sum()),
            "slices": [
                {
                    "mm_above_middle": float(above_middle[z] * recipe.spacing[0]),
                    "attention": float(attention[z]),
                }
                for z in chosen
            ],
        }
    atomic_write((json.dumps(shown, indent=2) + "\n").encode(), folder / EXPLANATION)


def is_explained(probabilities: dict[str, float], card: "ModelCard", folder: Path) -> bool:
    """Return whether the folder explains this prediction; EXPLANATION is written last."""
    try:
        shown = json.loads((folder / EXPLANATION).read_text(encoding="utf-8"))
        explained = {finding: entry["probability"] for finding, entry in shown.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # missing or invalid: write it again
    decisions = decide(probabilities, card.thresholds, card.uncalibrated)
    return explained == {
        finding: probabilities[finding] for finding in decisions if decisions[finding]
    }
