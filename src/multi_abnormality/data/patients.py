"""How many patients a score rests on, and whether they are enough."""

from collections.abc import Sequence

import numpy as np

FEW = 10  # patients with a finding, or without it; fewer make an unreliable interval
FEW_IN_ALL = 30  # validation patients; fewer make an uncertain choice of the best epoch


def has_enough_patients(labels: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """Whether FEW patients or more have a finding, and as many lack it: (F,) bool.

    Scans of one patient are alike, so patients are counted. One with a finding in one scan and
    without it in another counts on both sides.

    Args:
        labels: (N, F), 0 or 1; a row a scan.
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
    """Such as "11 validation patients: few, so the choice is uncertain".

    Arguments are those of has_enough_patients, of the scans that the best epoch was chosen by.
    """
    count = len(set(patients))
    text = f"{count} validation patient{'s' if count != 1 else ''}"
    if count < FEW_IN_ALL:
        return f"{text}: few, so the choice is uncertain"
    few = int((~has_enough_patients(labels, patients)).sum())
    if few:
        return (
            f"{text}, of whom fewer than {FEW} have or fewer than {FEW} lack {few} of "
            f"{labels.shape[1]} findings, so the choice is uncertain"
        )
    return text
