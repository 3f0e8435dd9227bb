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
    return [
        *_single_class_warnings(findings, train_labels, "training", "cannot be learned", "Add"),
        *_single_class_warnings(
            findings,
            val_labels,
            "validation",
            "can neither be calibrated nor count towards the best epoch",
            "Raise train.val_fraction, add",
        ),
    ]


def _single_class_warnings(
    findings: Sequence[str], labels: np.ndarray, split: str, consequence: str, hint: str
) -> list[str]:
    lines = []
    for value, missing in ((0, "positive"), (1, "negative")):
        is_single = (labels == value).all(axis=0)
        names = [repr(name) for name, single in zip(findings, is_single, strict=True) if single]
        if names:
            lines.append(
                f"{first_few(names)}: no {missing} among the {len(labels)} {split} volumes, so it "
                f"{consequence}. {hint} {missing} scans, or remove it from data.findings"
            )
    return lines
