"""Findings with only one class, or no label, among the training or validation scans."""

from collections.abc import Sequence

import numpy as np

from multi_abnormality.data.catalog.missing_labels import is_labeled, never_labeled
from multi_abnormality.utils.errors import first_few


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
