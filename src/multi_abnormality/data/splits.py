"""Which patients are held out."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from multi_abnormality.data.names import natural
from multi_abnormality.errors import InputError


def split_validation(
    labels: pd.DataFrame, findings: Sequence[str], fraction: float, seed: int
) -> tuple[list[str], list[str]]:
    """Hold out a share of the train split's patients, to validate on.

    Args:
        labels: a row a volume, with the columns name, patient_id and the findings.
        findings: names.
        fraction: of the patients, for validation.
        seed: chooses among the many splits that are equally good.

    Returns:
        The names of the training and of the validation volumes, each in natural order.

    Raises:
        InputError: there are fewer than two patients.
    """
    count = labels["patient_id"].nunique()
    if count < 2:
        raise InputError(
            f"the train split has {count} patients; holding some out for validation takes "
            "at least 2: add scans of other patients"
        )
    in_validation = labels["patient_id"].isin(hold_out(labels, findings, fraction, seed))
    parts = labels[~in_validation], labels[in_validation]
    check_apart(*parts)
    names = [sorted(part["name"], key=natural) for part in parts]
    return names[0], names[1]


def hold_out(labels: pd.DataFrame, findings: Sequence[str], fraction: float, seed: int) -> set[str]:
    """A share of two patients or more, each finding about as frequent as in the rest.

    A patient has a finding if any of the volumes does. The patients' order is a hash of seed and
    patient, so the order of the rows changes nothing. Arguments are those of split_validation.
    """
    patients = labels.groupby("patient_id")[list(findings)].max()
    order = sorted(patients.index, key=lambda patient: _digest(seed, patient))
    held_out = _deal(patients.loc[order].to_numpy(dtype=bool), fraction)
    return {patient for patient, out in zip(order, held_out, strict=True) if out}


def check_apart(train: pd.DataFrame, validation: pd.DataFrame) -> None:
    """Make sure that no patient is in both, whatever chose them.

    Raises:
        RuntimeError: one is, which would make every score on the second a lie.
    """
    both = set(train["patient_id"]) & set(validation["patient_id"])
    if both:
        raise RuntimeError(f"patients in training and in validation: {sorted(both)}")


def _deal(positive: np.ndarray, fraction: float) -> np.ndarray:
    """Which patients (P, F) go to validation: (P,) bool, at least one and not all of them.

    Each patient goes where the findings' sums of squared relative deviations from their due
    become smaller, as do the patients' numbers, being one more column. Patients with many
    findings go first, so that those with few can even out. On 300 patients of CT-RATE no share
    was off by more than half a patient; Sechidis's iterative stratification was off by three,
    since a patient with a rare finding brings frequent ones along.
    """
    count = len(positive)
    size = min(max(round(count * fraction), 1), count - 1)
    columns = np.column_stack([positive, np.ones(count)])
    weights = 1 / np.maximum(columns.sum(axis=0), 1) ** 2
    seen, taken = np.zeros((2, columns.shape[1]))
    chosen = np.zeros(count, dtype=bool)
    order = np.argsort(-positive.sum(axis=1), kind="stable")
    for done, patient in enumerate(order):
        seen += columns[patient]
        excess = 2 * (taken - seen * size / count) + 1  # growth of the square if taken
        # fsum: a sum rounded the same way on every processor.
        wanted = math.fsum(columns[patient] * weights * excess) < 0
        missing = size - taken[-1]
        if missing and (wanted or missing == count - done):
            chosen[patient] = True
            taken += columns[patient]
    return chosen


def _digest(seed: int, patient: str) -> bytes:
    return hashlib.sha256(f"{seed} {patient}".encode()).digest()
