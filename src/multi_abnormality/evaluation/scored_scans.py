"""Scans to score, averaged over their reconstructions, and checks of their labels and scores."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from multi_abnormality.data.catalog.label_checks import is_labeled
from multi_abnormality.data.catalog.volume_id import natural_sort_key
from multi_abnormality.utils.errors import InputError, raise_errors


class Scans(NamedTuple):
    """One row per scan: name of its first reconstruction, logits (S, F), labels (S, F).

    `averaged` has the names of all reconstructions, by that name, of scans with several ones.
    """

    names: list[str]
    logits: np.ndarray
    labels: np.ndarray
    patients: list[str]
    averaged: Mapping[str, list[str]] = {}


def average_over_reconstructions(
    names: Sequence[str],
    logits: np.ndarray,
    labels: np.ndarray,
    scans: Sequence[str],
    patients: Sequence[str],
    findings: Sequence[str],
) -> Scans:
    """Average the logits over the reconstructions of each scan.

    Scans are sorted in the natural order of their names.

    Args:
        names: V volume names, such as valid_1_a_2.
        logits: (V, F).
        labels: (V, F), 0, 1 or NaN for a missing one.
        scans: V ids; equal for reconstructions of one scan.
        patients: V ids.
        findings: F names.

    Raises:
        InputError: names the volumes whose labels or patients disagree within a scan, or the
            first value that cannot be scored.
    """
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    check_labels(labels, findings, names)
    check_scores(logits, labels, findings, names, "logits")
    rows_of_scan: dict[str, list[int]] = {}
    for row in sorted(range(len(names)), key=lambda row: natural_sort_key(names[row])):
        rows_of_scan.setdefault(scans[row], []).append(row)
    groups = list(rows_of_scan.values())
    raise_errors(
        [fault for rows in groups for fault in _disagreements(rows, names, labels, patients)],
        "reconstructions of one scan disagree",
    )
    first = [rows[0] for rows in groups]
    means = np.array([logits[rows].mean(axis=0) for rows in groups])
    averaged = {names[rows[0]]: [names[row] for row in rows] for rows in groups if len(rows) > 1}
    return Scans(
        [names[row] for row in first], means, labels[first], [patients[row] for row in first],
        averaged,
    )  # fmt: skip


def _disagreements(
    rows: list[int], names: Sequence[str], labels: np.ndarray, patients: Sequence[str]
) -> list[str]:
    first = rows[0]
    return [
        f"{names[first]} and {names[row]}: {what}"
        for row in rows[1:]
        for what, differs in (
            (
                "other labels; fix the label table",
                not np.array_equal(labels[row], labels[first], equal_nan=True),
            ),
            ("other patients", patients[row] != patients[first]),
        )
        if differs
    ]


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
