"""Checks whether a score rests on enough patients."""

from collections.abc import Sequence

import numpy as np

FEW = 10  # patients with a finding, or without it; with fewer an interval is unreliable
FEW_VALIDATION = 30  # patients; with fewer the choice of the best epoch is uncertain


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
