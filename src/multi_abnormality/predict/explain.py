"""Pictures of the slices that speak for each finding."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from multi_abnormality.evaluation.pictures import in_scan, jpeg, show
from multi_abnormality.files import write_durably

if TYPE_CHECKING:
    from multi_abnormality.params_preprocess import Recipe
    from multi_abnormality.predict.model import Prediction

SLICES = 3  # that count most, shown from low to high
EXPLANATION = "explanation.json"


def write_explanation(prediction: "Prediction", recipe: "Recipe", folder: Path) -> None:
    """Write a JPEG of each positive finding, and explanation.json, which describes them.

    Slices that only pad the volume are never shown.

    Where a slice lies is given from the scan's middle, towards the head: the model's own slices
    are others than the file's.

    Args:
        prediction: of a scan.
        recipe: of the model.
        folder: of this scan.
    """
    shown = {}
    inside = in_scan(prediction.hu)
    for finding, attention in zip(prediction.probabilities, prediction.attention, strict=True):
        if prediction.probabilities[finding] < prediction.thresholds[finding]:
            (folder / f"{finding}.jpg").unlink(missing_ok=True)  # of another model
            continue
        above_middle = np.arange(len(attention)) - (len(attention) - 1) / 2
        # With max pooling all but one count nothing, with mean pooling all alike.
        order = np.lexsort((np.abs(above_middle), -attention, ~inside))[:SLICES]
        counts = inside[order] & (attention[order] > 0)
        counts[0] = True  # where all attention is on padding
        chosen = sorted(order[counts].tolist())
        pictures = [show(prediction.hu[z], finding, recipe.model_dump()) for z in chosen]
        write_durably(jpeg(np.concatenate(pictures, axis=1)), folder / f"{finding}.jpg")
        shown[finding] = {
            "probability": prediction.probabilities[finding],
            "threshold": prediction.thresholds[finding],
            "attention_on_padding": float(attention[~inside].sum()),
            "slices": [
                {
                    "mm_above_middle": float(above_middle[z] * recipe.spacing[0]),
                    "attention": float(attention[z]),
                }
                for z in chosen
            ],
        }
    write_durably((json.dumps(shown, indent=2) + "\n").encode(), folder / EXPLANATION)


def is_explained(
    probabilities: dict[str, float], thresholds: dict[str, float], folder: Path
) -> bool:
    """Whether this very prediction of a scan has all its pictures: their text is written last."""
    try:
        shown = json.loads((folder / EXPLANATION).read_text(encoding="utf-8"))
        known = {finding: one["probability"] for finding, one in shown.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # there is none, or something else: it is written again
    positive = {one: value for one, value in probabilities.items() if value >= thresholds[one]}
    return known == positive
