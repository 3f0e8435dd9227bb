"""Example scans for the report: the most confident true and false predictions of each finding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from multi_abnormality.config.schema import PreprocessSpec, parse_section
from multi_abnormality.data.preprocessing.quantization import code_table
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.evaluation.grad_cam import Explanation, explain
from multi_abnormality.evaluation.logits_file import View
from multi_abnormality.evaluation.predictions import Scans
from multi_abnormality.evaluation.rendering import apply_window, jpeg, resize_isotropic
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.utils.console import track

HITS, MISSES, FALSE_ALARMS = 2, 2, 1  # shown per finding
HEAT_RGB = np.array([255.0, 120.0, 0.0])
OPACITY = 0.55  # of the highest heat


@dataclass(frozen=True)
class Case:
    """One scan and one finding in it."""

    name: str
    probability: float
    view: View


@dataclass(frozen=True)
class Cases:
    """Examples of one finding, the most confident first."""

    finding: str
    hits: list[Case]  # positive scans with the highest probability
    misses: list[Case]  # positive scans with the lowest probability
    false_alarms: list[Case]  # negative scans with the highest probability


def choose_cases(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, list[int]]:
    """Choose example rows of one finding by kind, from (N,) labels and probabilities.

    No row is chosen twice. Rank decides between hit and miss, not 0.5, which few scans of a rare
    finding exceed.
    """
    positives, negatives = (np.flatnonzero(labels == value) for value in (1, 0))
    ranked = positives[np.argsort(-probabilities[positives], kind="stable")]
    hits = min(HITS, (len(positives) + 1) // 2)
    misses = min(MISSES, len(positives) - hits)
    alarms = negatives[np.argsort(-probabilities[negatives], kind="stable")][:FALSE_ALARMS]
    return {
        "hits": ranked[:hits].tolist(),
        "misses": ranked[::-1][:misses].tolist(),
        "false_alarms": alarms.tolist(),
    }


def draw_cases(
    classifier: Callable[[], VolumeClassifier],
    volumes: ProcessedDataset,
    scans: Scans,
    probabilities: np.ndarray,
    findings: Sequence[str],
    views: dict[tuple[str, str], View],
) -> list[Cases]:
    """Render the examples of each finding that at least one scan has.

    Args:
        classifier: returns the classifier behind the probabilities, in evaluation mode.
        volumes: processed dataset of the scans.
        scans: N scans.
        probabilities: (N, F).
        findings: F names.
        views: cached views by the names of volume and finding; updated in place to the views of
            these examples.
    """
    shown = np.flatnonzero(scans.labels.any(axis=0)).tolist()
    rows = {
        (column, kind): chosen
        for column in shown
        for kind, chosen in choose_cases(scans.labels[:, column], probabilities[:, column]).items()
    }
    missing: dict[int, list[int]] = {}
    for (column, _), chosen in rows.items():
        for row in chosen:
            if (scans.names[row], findings[column]) not in views:
                missing.setdefault(row, []).append(column)
    drawn = dict(views)
    for row, columns in track(missing.items(), "explain cases", len(missing), "scans"):
        name = scans.names[row]
        codes = volumes.read(name)
        for column, explanation in zip(columns, explain(classifier(), codes, columns), strict=True):
            drawn[name, findings[column]] = _render(
                codes, explanation, findings[column], volumes.recipe
            )
    views.clear()

    def case(row: int, column: int) -> Case:
        key = scans.names[row], findings[column]
        views[key] = drawn[key]
        return Case(key[0], float(probabilities[row, column]), drawn[key])

    return [
        Cases(
            findings[column],
            **{
                kind: [case(row, column) for row in rows[column, kind]]
                for kind in ("hits", "misses", "false_alarms")
            },
        )
        for column in shown
    ]


def _render(
    codes: np.ndarray, explanation: Explanation, finding: str, recipe: dict[str, Any]
) -> View:
    hu = code_table(parse_section(PreprocessSpec, recipe))[codes[explanation.slice]]
    picture = draw(hu, explanation.heat, finding, recipe)
    return View(explanation.attention, explanation.slice, explanation.padding, picture)


def draw(hu: np.ndarray, heat: np.ndarray, finding: str, recipe: dict[str, Any]) -> bytes:
    """Draw a slice (Y, X) in HU without and with its heat map (Y, X), as a JPEG file."""
    plain = np.repeat(apply_window(hu, finding, recipe)[..., None], 3, axis=2)
    alpha = OPACITY * resize_isotropic(heat, recipe).clip(0, 1)[..., None]
    pair = np.concatenate([plain, plain * (1 - alpha) + HEAT_RGB * alpha], axis=1)
    return jpeg(pair)
