"""One row per scan from one per reconstruction, and the files of predictions."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from multi_abnormality.data.names import natural
from multi_abnormality.errors import InputError, raise_faults
from multi_abnormality.evaluation.checks import check_labels, check_scores
from multi_abnormality.files import write_durably

SUBMISSION_NAME = "Multi-abnormality classification"


class Scans(NamedTuple):
    """A row a scan: the name of its first reconstruction, logits (S, F), labels (S, F)."""

    names: list[str]
    logits: np.ndarray
    labels: np.ndarray
    patients: list[str]


def by_scan(
    names: Sequence[str],
    logits: np.ndarray,
    labels: np.ndarray,
    scans: Sequence[str],
    patients: Sequence[str],
    findings: Sequence[str],
) -> Scans:
    """Mean logits over the reconstructions of each scan.

    Scans come in the natural order of their names, whatever the order of the rows.

    Args:
        names: V volume names, such as valid_1_a_2.
        logits: (V, F).
        labels: (V, F), 0 or 1.
        scans: V ids; equal for reconstructions of one scan.
        patients: V ids.
        findings: F names.

    Raises:
        InputError: names the volumes whose labels or patients disagree within a scan, or the
            first value that cannot be scored.
    """
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    check_labels(labels, findings, lambda row: names[row])
    check_scores(logits, labels, findings, lambda row: names[row], "logits")
    rows_of_scan: dict[str, list[int]] = {}
    for row in sorted(range(len(names)), key=lambda row: natural(names[row])):
        rows_of_scan.setdefault(scans[row], []).append(row)
    groups = list(rows_of_scan.values())
    raise_faults(
        [fault for rows in groups for fault in _disagreements(rows, names, labels, patients)],
        "reconstructions of one scan disagree",
    )
    first = [rows[0] for rows in groups]
    means = np.array([logits[rows].mean(axis=0) for rows in groups])
    return Scans(
        [names[row] for row in first], means, labels[first], [patients[row] for row in first]
    )


def _disagreements(
    rows: list[int], names: Sequence[str], labels: np.ndarray, patients: Sequence[str]
) -> list[str]:
    first = rows[0]
    return [
        f"{names[first]} and {names[row]}: {what}"
        for row in rows[1:]
        for what, differs in (
            ("other labels; mend the label table", (labels[row] != labels[first]).any()),
            ("other patients", patients[row] != patients[first]),
        )
        if differs
    ]


def predictions_json(
    rows: Iterable[tuple[str, Mapping[str, float]]],
    thresholds: Mapping[str, float],
    synthetic: bool,
) -> str:
    """Format calibrated probabilities as JSON, with thresholds and which findings are positive.

    Args:
        rows: name of each scan and its probability of each finding.
        thresholds: of each finding.
        synthetic: whether the model was trained on synthetic phantoms.
    """
    content = {
        "synthetic": synthetic,
        "thresholds": dict(thresholds),
        "predictions": [
            {
                "input_image_name": name,
                "probabilities": dict(chances),
                "positive": {one: value >= thresholds[one] for one, value in chances.items()},
            }
            for name, chances in rows
        ],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def write_submission(
    path: Path, names: Sequence[str], probabilities: np.ndarray, findings: Sequence[str]
) -> None:
    """Write probabilities (N, F) in the challenge's form, each float to its last bit.

    Args:
        path: JSON file.
        names: N names of scans.
        probabilities: (N, F), shifted by `submission_probabilities`.
        findings: F names.

    Raises:
        InputError: a name stands twice, or a probability is not finite.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    raise_faults([f"{name} stands twice" for name in twice], f"{path}: one prediction a scan")
    content = {
        "name": SUBMISSION_NAME,
        "predictions": [
            {
                "input_image_name": name,
                "probabilities": dict(zip(findings, map(float, row), strict=True)),
            }
            for name, row in zip(names, np.asarray(probabilities), strict=True)
        ],
    }
    try:
        text = json.dumps(content, indent=1, allow_nan=False)
    except ValueError as error:
        raise InputError(f"{path}: a probability is not finite") from error
    write_durably(f"{text}\n".encode(), path)
