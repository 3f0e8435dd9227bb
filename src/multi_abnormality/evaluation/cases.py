"""Cases for the report: what the classifier is surest of, rightly and wrongly, by finding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from multi_abnormality.console import track
from multi_abnormality.data.codes import code_table
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.evaluation.explanation import explain
from multi_abnormality.evaluation.inference_file import View
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
    view: View


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
    classifier: Callable[[], VolumeClassifier],
    volumes: ProcessedSet,
    scans: Scans,
    probabilities: np.ndarray,
    findings: Sequence[str],
    views: dict[tuple[str, str], View],
) -> list[Cases]:
    """Cases of each finding that some scan has.

    Args:
        classifier: returns the one that gave the probabilities, in evaluation mode.
        volumes: where the scans are.
        scans: N of them.
        probabilities: (N, F).
        findings: F names.
        views: those that are known, by the names of volume and finding. It is replaced by those of
            these cases.
    """
    shown = np.flatnonzero(scans.labels.any(axis=0)).tolist()
    rows = {
        (place, kind): chosen
        for place in shown
        for kind, chosen in choose_cases(scans.labels[:, place], probabilities[:, place]).items()
    }
    wanted: dict[int, list[int]] = {}
    for (place, _), chosen in rows.items():
        for row in chosen:
            if (scans.names[row], findings[place]) not in views:
                wanted.setdefault(row, []).append(place)
    hu_of_code = code_table(parse_section(Recipe, volumes.recipe))
    drawn = dict(views)
    for row, places in track(wanted.items(), "explain cases", len(wanted), "scans"):
        name = scans.names[row]
        codes = volumes.read(name)
        for place, seen in zip(places, explain(classifier(), codes, places), strict=True):
            hu = hu_of_code[codes[seen.slice]]
            picture = draw(hu, seen.heat, findings[place], volumes.recipe)
            view = View(seen.attention, seen.slice, seen.padding, picture)
            drawn[name, findings[place]] = view
    views.clear()

    def case(row: int, place: int) -> Case:
        key = scans.names[row], findings[place]
        views[key] = drawn[key]
        return Case(key[0], float(probabilities[row, place]), drawn[key])

    return [
        Cases(
            findings[place],
            **{
                kind: [case(row, place) for row in rows[place, kind]]
                for kind in ("hits", "misses", "false_alarms")
            },
        )
        for place in shown
    ]


def draw(hu: np.ndarray, heat: np.ndarray, finding: str, recipe: dict[str, Any]) -> bytes:
    """A slice (Y, X) in HU beside itself under heat (Y, X), as a JPEG file."""
    plain = np.repeat(show(hu, finding, recipe)[..., None], 3, axis=2)
    share = OPACITY * fit(heat, recipe).clip(0, 1)[..., None]
    pair = np.concatenate([plain, plain * (1 - share) + HEAT * share], axis=1)
    return jpeg(pair)
