"""Findings with only one class among the training or validation scans."""

from collections.abc import Sequence

import numpy as np

from multi_abnormality.utils.errors import first_few


def single_class_warnings(
    findings: Sequence[str], train_labels: np.ndarray, val_labels: np.ndarray
) -> list[str]:
    """Return warnings to log before training starts.

    Args:
        findings: F names.
        train_labels: (N, F) labels, 0 or 1, of the training volumes.
        val_labels: (M, F) labels, 0 or 1, of the validation volumes.
    """
    lines = []
    for split, labels, consequence, hint in (
        ("training", train_labels, "cannot be learned", "Add"),
        (
            "validation",
            val_labels,
            "can neither be calibrated nor count towards the best epoch",
            "Raise train.val_fraction, add",
        ),
    ):
        for value, missing in ((0, "positive"), (1, "negative")):
            columns = np.flatnonzero((labels == value).all(axis=0)).tolist()
            if columns:
                lines.append(
                    f"{first_few([repr(findings[column]) for column in columns])}: no {missing} "
                    f"among the {len(labels)} {split} volumes, so it {consequence}. {hint} "
                    f"{missing} scans, or remove it from data.findings"
                )
    return lines
