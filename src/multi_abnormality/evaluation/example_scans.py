"""Example scans for the report: the most confident true and false predictions of each finding."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from multi_abnormality.config.schema import PreprocessSpec, parse_section
from multi_abnormality.data.preprocessing.quantization import code_table
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.evaluation.body_mask import heat_outside
from multi_abnormality.evaluation.grad_cam import explain
from multi_abnormality.evaluation.inference_cache import View
from multi_abnormality.evaluation.scored_scans import Scans
from multi_abnormality.evaluation.slice_rendering import draw_heat, draw_slice, in_scan
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.utils.console import track

HITS, MISSES, FALSE_ALARMS = 2, 3, 1  # shown per finding
NEIGHBORS = 3  # slices above and below the one with the heat map


@dataclass(frozen=True)
class Case:
    """One scan and one finding in it."""

    name: str
    probability: float
    view: View
    others: tuple[str, ...] = ()  # other findings that the scan has


def choose_cases(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, list[int]]:
    """Choose example rows of one finding by kind, from (N,) labels and probabilities.

    Scans whose label is missing are not chosen.

    Hits are the positives with the highest probability, misses those with the lowest, and false
    alarms the negatives with the highest. No row is chosen twice. Rank decides between hit and
    miss, not 0.5, which few scans of a rare finding exceed.
    """
    ranked = np.argsort(-probabilities, kind="stable")
    positives, negatives = (ranked[labels[ranked] == value].tolist() for value in (1, 0))
    hits = min(HITS, (len(positives) + 1) // 2)
    misses = min(MISSES, len(positives) - hits)
    return {
        "hits": positives[:hits],
        "misses": positives[::-1][:misses],
        "false_alarms": negatives[:FALSE_ALARMS],
    }


def draw_cases(
    classifier: Callable[[], VolumeClassifier],
    volumes: ProcessedDataset,
    scans: Scans,
    probabilities: np.ndarray,
    findings: Sequence[str],
    views: dict[tuple[str, str], View],
) -> dict[str, dict[str, list[Case]]]:
    """Render the examples of each finding that at least one scan has.

    Args:
        classifier: returns the classifier behind the probabilities, in evaluation mode.
        volumes: processed dataset of the scans.
        scans: N scans.
        probabilities: (N, F).
        findings: F names.
        views: cached views by the names of volume and finding; updated in place to the views of
            these examples.

    Returns:
        Examples by finding and kind, the most confident first.
    """
    chosen = {
        column: choose_cases(scans.labels[:, column], probabilities[:, column])
        for column in np.flatnonzero((scans.labels == 1).any(axis=0)).tolist()
    }
    missing: dict[str, list[int]] = {}
    keys = []
    for column, rows in chosen.items():
        for row in itertools.chain(*rows.values()):
            keys.append((scans.names[row], findings[column]))
            if keys[-1] not in views:
                missing.setdefault(scans.names[row], []).append(column)
    drawn = dict(views)
    for name, columns in track(missing.items(), "explain cases", len(missing), "scans"):
        drawn |= _draw_views(classifier(), volumes, name, columns, findings)
    views.clear()
    views.update((key, drawn[key]) for key in keys)

    def case(row: int, column: int) -> Case:
        name = scans.names[row]
        present = np.flatnonzero(scans.labels[row] == 1).tolist()
        return Case(
            name,
            float(probabilities[row, column]),
            views[name, findings[column]],
            tuple(findings[other] for other in present if other != column),
        )

    return {
        findings[column]: {kind: [case(row, column) for row in of] for kind, of in rows.items()}
        for column, rows in chosen.items()
    }


def _draw_views(
    classifier: VolumeClassifier,
    volumes: ProcessedDataset,
    name: str,
    columns: list[int],
    findings: Sequence[str],
) -> dict[tuple[str, str], View]:
    """Return the views of some findings in one volume, by the names of volume and finding."""
    codes, views = volumes.read(name), {}
    spacing = volumes.recipe["spacing"]
    hu_of_code = code_table(parse_section(PreprocessSpec, volumes.recipe))
    inside = np.flatnonzero(in_scan(codes))
    lowest, highest = int(inside[0]), int(inside[-1])
    for column, one in zip(columns, explain(classifier, codes, columns), strict=True):
        first = max(one.slice - NEIGHBORS, lowest)
        last = min(one.slice + NEIGHBORS, highest)
        views[name, findings[column]] = View(
            attention=one.attention,
            slice=one.slice,
            padding=one.padding,
            outside=heat_outside(one.heat, hu_of_code[codes[one.slice]]),
            lowest=lowest,
            slices=highest - lowest + 1,
            first=first,
            pictures=tuple(
                draw_slice(hu_of_code[codes[z]], findings[column], spacing)
                for z in range(first, last + 1)
            ),
            heat=draw_heat(one.heat, spacing),
        )
    return views
