"""Findings without positives, without negatives, or without any label, and warnings of them."""

from collections.abc import Sequence

import numpy as np

from multi_abnormality.data.catalog.label_checks import is_labeled
from multi_abnormality.utils.errors import first_few


def never_labeled(labels: np.ndarray) -> np.ndarray:
    """Return which findings have no label in any row: (F,) bool of labels (N, F), N above 0."""
    return np.array([not is_labeled(column).any() for column in labels.T])


def lacks_a_class(labels: np.ndarray) -> np.ndarray:
    """Return which findings have no positive or no negative: (F,) bool of labels (N, F).

    Without both among the training scans, a finding cannot be learned.
    """
    lacking: np.ndarray = ~((labels == 1).any(axis=0) & (labels == 0).any(axis=0))
    return lacking


def single_class_warnings(
    findings: Sequence[str], train_labels: np.ndarray, val_labels: np.ndarray
) -> list[str]:
    """Return warnings to log before training starts.

    Args:
        findings: F names.
        train_labels: (N, F) labels, 0, 1 or NaN, of the training volumes.
        val_labels: (M, F) labels, 0, 1 or NaN, of the validation volumes.
    """
    lines = []

    def names(chosen: np.ndarray) -> str:
        return first_few([repr(findings[column]) for column in np.flatnonzero(chosen).tolist()])

    for split, labels, consequence, hint in (
        ("training", train_labels, "is neither trained nor scored", "Add"),
        (
            "validation",
            val_labels,
            "can neither be calibrated nor count towards the best epoch",
            "Use more validation patients, add",
        ),
    ):
        unlabeled = never_labeled(labels)
        if unlabeled.any():
            lines.append(
                f"{names(unlabeled)}: no label among the {len(labels)} {split} volumes, so it "
                f"{consequence}. {hint} scans with a label, or remove it from data.findings"
            )
        for value, missing in ((0, "positive"), (1, "negative")):
            single = ((labels == value) | ~is_labeled(labels)).all(axis=0) & ~unlabeled
            if single.any():
                lines.append(
                    f"{names(single)}: no {missing} among the {len(labels)} {split} volumes, so it "
                    f"{consequence}. {hint} {missing} scans, or remove it from data.findings"
                )
    return lines
