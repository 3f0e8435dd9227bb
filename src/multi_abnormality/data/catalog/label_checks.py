"""Checks of labels: missing ones, and few patients.

A missing label is NaN in arrays and tables, and an empty cell in labels.csv. It is neither positive
nor negative: it is left out of losses, weights, calibration and scores. Arrays of labels are
integers as long as none is missing.
"""

from collections.abc import Sequence
from typing import TypeVar, cast

import numpy as np

FEW = 10  # patients with a finding, or without it; with fewer an interval is unreliable
FEW_VALIDATION = 30  # patients; with fewer the choice of the best epoch is uncertain

A = TypeVar("A")  # an array, tensor or table


def is_labeled(labels: A) -> A:
    """Return where labels are not missing, as booleans of the same shape.

    Args:
        labels: an array, tensor or table of 0, 1 and NaN; a tensor's device is not waited for.
    """
    return cast(A, labels == labels)  # NaN alone is not equal to itself


def labeled_cells(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the integer labels that are not missing and their scores, as flat arrays.

    Args:
        labels: array of 0, 1 and NaN.
        scores: array of the same shape.
    """
    known = is_labeled(labels)
    return labels[known].astype(np.int64), scores[known]


def count_labels(labels: np.ndarray, findings: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count the labels (N, F) of each finding: positives, negatives and missing ones."""
    counts = {
        "positives": (labels == 1).sum(axis=0),
        "negatives": (labels == 0).sum(axis=0),
        "missing": (~is_labeled(labels)).sum(axis=0),
    }
    return {
        finding: {kind: int(count[column]) for kind, count in counts.items()}
        for column, finding in enumerate(findings)
    }


def has_enough_patients(labels: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """Return (F,) bool: whether at least FEW patients have each finding, and FEW do not.

    Patients are counted, since scans of one patient are alike. A patient whose scans differ in a
    finding counts on both sides.

    Args:
        labels: (N, F), 0, 1 or NaN for a missing one, one row per scan.
        patients: N ids.
    """
    of_row = np.asarray(patients)
    return np.array(
        [
            min(len(np.unique(of_row[column == value])) for value in (0, 1)) >= FEW
            for column in labels.T
        ]
    )


def describe_validation(labels: np.ndarray, patients: Sequence[str]) -> str:
    """Describe the size of the validation set, and whether it makes the best epoch uncertain.

    Args:
        labels: (N, F), 0 or 1, one row per validation scan.
        patients: N ids.
    """
    count = len(set(patients))
    text = f"{count} validation patient{'s' if count != 1 else ''}"
    if count < FEW_VALIDATION:
        return f"{text}: few, so the choice is uncertain"
    few = int((~has_enough_patients(labels, patients)).sum())
    if few:
        return (
            f"{text}, of whom fewer than {FEW} have or fewer than {FEW} lack {few} of "
            f"{labels.shape[1]} findings, so the choice is uncertain"
        )
    return text
