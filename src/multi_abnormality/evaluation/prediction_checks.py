"""Validation of labels and scores; errors name the first wrong scan and finding."""

from collections.abc import Sequence

import numpy as np

from multi_abnormality.data.catalog.missing_labels import is_labeled
from multi_abnormality.utils.errors import InputError


def check_labels(labels: np.ndarray, findings: Sequence[str], scans: Sequence[str]) -> None:
    """Check labels of shape (N, F): at least one row, a column per finding, only 0, 1 and NaN."""
    if labels.ndim != 2 or labels.shape[1] != len(findings):
        raise InputError(
            f"labels: shape {labels.shape}, not (scans, {len(findings)}): one column per finding"
        )
    if len(labels) == 0:
        raise InputError("labels: there is no scan to score; is the split empty?")
    _refuse_first(
        is_labeled(labels) & ~np.isin(labels, (0, 1)),
        labels,
        findings,
        scans,
        "a label must be 0 or 1; fix its row",
    )


def check_scores(
    scores: np.ndarray, labels: np.ndarray, findings: Sequence[str], scans: Sequence[str], what: str
) -> None:
    """Check that `scores` (logits or probabilities) are finite and have the labels' shape."""
    if scores.shape != labels.shape:
        raise InputError(f"{what}: shape {scores.shape}, but the labels have {labels.shape}")
    _refuse_first(
        ~np.isfinite(scores),
        scores,
        findings,
        scans,
        "every value must be finite; check this scan's volume and the checkpoint",
    )


def check_probabilities(
    probabilities: np.ndarray, labels: np.ndarray, findings: Sequence[str], scans: Sequence[str]
) -> None:
    """Check that probabilities are finite, have the labels' shape and lie between 0 and 1."""
    name = "probabilities"
    check_scores(probabilities, labels, findings, scans, name)
    wrong = (probabilities < 0) | (probabilities > 1)
    _refuse_first(wrong, probabilities, findings, scans, "a probability must be 0 to 1")


def _refuse_first(
    wrong: np.ndarray, values: np.ndarray, findings: Sequence[str], scans: Sequence[str], hint: str
) -> None:
    if not wrong.any():
        return
    row, column = (int(index) for index in np.argwhere(wrong)[0])
    count = int(wrong.sum())
    more = f" (and {count - 1} more)" if count > 1 else ""
    raise InputError(f"{scans[row]}, {findings[column]}: {values[row, column]}{more}; {hint}")
