"""Missing labels: NaN in arrays and tables, an empty cell in labels.csv.

A missing label is neither positive nor negative: it is left out of losses, weights, calibration and
scores. Arrays of labels are integers as long as none is missing.
"""

from collections.abc import Sequence
from typing import TypeVar, cast

import numpy as np

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


def never_labeled(labels: np.ndarray) -> np.ndarray:
    """Return which findings have no label in any row: (F,) bool of labels (N, F), N above 0."""
    return np.array([not is_labeled(column).any() for column in labels.T])


def lacks_a_class(labels: np.ndarray) -> np.ndarray:
    """Return which findings have no positive or no negative: (F,) bool of labels (N, F).

    Without both among the training scans, a finding cannot be learned.
    """
    lacking: np.ndarray = ~((labels == 1).any(axis=0) & (labels == 0).any(axis=0))
    return lacking


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
