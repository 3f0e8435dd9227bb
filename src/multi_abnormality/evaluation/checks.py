"""Refuse arrays that cannot be scored, naming the first scan and finding at fault."""

from collections.abc import Callable, Sequence

import numpy as np

from multi_abnormality.errors import InputError

Describe = Callable[[int], str]  # a row's index to the words that name it


def check_labels(labels: np.ndarray, findings: Sequence[str], describe: Describe) -> None:
    """Check labels of shape (N, F): at least one row, a column a finding, only 0 and 1."""
    if labels.ndim != 2 or labels.shape[1] != len(findings):
        raise InputError(
            f"labels: shape {labels.shape}, not (scans, {len(findings)}): one column a finding"
        )
    if len(labels) == 0:
        raise InputError("labels: there is no scan to score; is the split empty?")
    _refuse_first(
        ~np.isin(labels, (0, 1)), labels, findings, describe, "a label must be 0 or 1; mend its row"
    )


def check_scores(
    scores: np.ndarray, labels: np.ndarray, findings: Sequence[str], describe: Describe, what: str
) -> None:
    """Check that `scores` (logits or probabilities) are finite and as many as the labels."""
    if scores.shape != labels.shape:
        raise InputError(f"{what}: shape {scores.shape}, but the labels have {labels.shape}")
    _refuse_first(
        ~np.isfinite(scores),
        scores,
        findings,
        describe,
        "every value must be finite; look for the fault in this scan's volume or in the checkpoint",
    )


def check_probabilities(
    probabilities: np.ndarray, labels: np.ndarray, findings: Sequence[str], describe: Describe
) -> None:
    """Check probabilities as `check_scores` does, and that they lie in 0 to 1."""
    name = "probabilities"
    check_scores(probabilities, labels, findings, describe, name)
    wrong = (probabilities < 0) | (probabilities > 1)
    _refuse_first(wrong, probabilities, findings, describe, "a probability lies between 0 and 1")


def row_of_patient(patients: Sequence[str]) -> Describe:
    """How a row is named where only its patient is known."""
    return lambda row: f"row {row} (patient {patients[row]})"


def _refuse_first(
    wrong: np.ndarray, values: np.ndarray, findings: Sequence[str], describe: Describe, hint: str
) -> None:
    if not wrong.any():
        return
    row, column = (int(index) for index in np.argwhere(wrong)[0])
    count = int(wrong.sum())
    more = f" (and {count - 1} more)" if count > 1 else ""
    raise InputError(f"{describe(row)}, {findings[column]}: {values[row, column]}{more}; {hint}")
