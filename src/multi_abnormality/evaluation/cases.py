"""Cases for the report: what the classifier is surest of, rightly and wrongly, by finding."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from multi_abnormality.console import track
from multi_abnormality.data.codes import code_table
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.evaluation.explanation import Explanation, explain
from multi_abnormality.evaluation.pictures import fit, jpeg, show
from multi_abnormality.evaluation.predictions import Scans
from multi_abnormality.model.classifier import VolumeClassifier
from multi_abnormality.params import parse_section
from multi_abnormality.params_preprocess import Recipe

HITS, MISSES, FALSE_ALARMS = 2, 2, 1  # of each finding
HEAT = np.array([255.0, 120.0, 0.0])  # its colour
OPACITY = 0.55  # where it is hottest


@dataclass(frozen=True)
class Case:
    """One scan and one finding in it."""

    name: str
    probability: float
    explanation: Explanation
    picture: str  # a JPEG file in base64: the slice, and the same with the heat over it


@dataclass(frozen=True)
class Cases:
    """Of one finding; the surest first."""

    finding: str
    hits: list[Case]  # scans that have it, of the highest probability
    misses: list[Case]  # scans that have it, of the lowest
    false_alarms: list[Case]  # scans that do not have it, of the highest


def choose_cases(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, list[int]]:
    """Rows of one finding's cases by kind, from (N,) labels and probabilities. None stands twice.

    A scan is a hit or a miss by its rank, not by 0.5: rare findings have few above it.
    """
    positives, negatives = (np.flatnonzero(labels == value) for value in (1, 0))
    by_chance = positives[np.argsort(-probabilities[positives], kind="stable")]
    hits = min(HITS, (len(positives) + 1) // 2)
    misses = min(MISSES, len(positives) - hits)
    alarms = negatives[np.argsort(-probabilities[negatives], kind="stable")][:FALSE_ALARMS]
    return {
        "hits": by_chance[:hits].tolist(),
        "misses": by_chance[::-1][:misses].tolist(),
        "false_alarms": alarms.tolist(),
    }


def draw_cases(
    classifier: VolumeClassifier,
    volumes: ProcessedSet,
    scans: Scans,
    probabilities: np.ndarray,
    findings: Sequence[str],
) -> list[Cases]:
    """Cases of each finding that some scan has.

    Args:
        classifier: that gave the probabilities, in evaluation mode.
        volumes: where the scans are.
        scans: N of them.
        probabilities: (N, F).
        findings: F names.
    """
    rows = {
        (place, kind): chosen
        for place in range(len(findings))
        for kind, chosen in choose_cases(scans.labels[:, place], probabilities[:, place]).items()
    }
    wanted: dict[int, list[int]] = {}
    for (place, _), chosen in rows.items():
        for row in chosen:
            wanted.setdefault(row, []).append(place)
    hu_of_code = code_table(parse_section(Recipe, volumes.recipe))
    drawn: dict[tuple[int, int], Case] = {}
    for row, places in track(wanted.items(), "explain cases", len(wanted), "scans"):
        name = scans.names[row]
        codes = volumes.read(name)
        for place, seen in zip(places, explain(classifier, codes, places), strict=True):
            hu = hu_of_code[codes[seen.slice]]
            picture = draw(hu, seen.heat, findings[place], volumes.recipe)
            drawn[row, place] = Case(name, float(probabilities[row, place]), seen, picture)
    return [
        Cases(
            finding,
            **{
                kind: [drawn[row, place] for row in rows[place, kind]]
                for kind in ("hits", "misses", "false_alarms")
            },
        )
        for place, finding in enumerate(findings)
        if scans.labels[:, place].any()
    ]


def draw(hu: np.ndarray, heat: np.ndarray, finding: str, recipe: dict[str, Any]) -> str:
    """A slice (Y, X) in HU beside itself under heat (Y, X), as a JPEG file in base64."""
    plain = np.repeat(show(hu, finding, recipe)[..., None], 3, axis=2)
    share = OPACITY * fit(heat, recipe).clip(0, 1)[..., None]
    pair = np.concatenate([plain, plain * (1 - share) + HEAT * share], axis=1)
    return base64.b64encode(jpeg(pair)).decode()
