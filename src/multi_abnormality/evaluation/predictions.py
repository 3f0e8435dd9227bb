"""Averaging over reconstructions, and the files of predictions."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from multi_abnormality.data.catalog.volume_id import natural_sort_key
from multi_abnormality.evaluation.prediction_checks import check_labels, check_scores
from multi_abnormality.evaluation.threshold_selection import decide
from multi_abnormality.utils.atomic_io import atomic_write
from multi_abnormality.utils.errors import InputError, raise_errors

SUBMISSION_NAME = "Multi-abnormality classification"


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


def predictions_json(
    rows: Iterable[tuple[str, Mapping[str, float]]],
    thresholds: Mapping[str, float],
    uncalibrated: Sequence[str],
    synthetic: bool,
    averaged: Mapping[str, list[str]] | None = None,
) -> str:
    """Format calibrated probabilities as JSON, with thresholds and decisions.

    Args:
        rows: name of each scan and its probability of each finding.
        thresholds: threshold by finding.
        uncalibrated: findings without a decision: their `positive` is null.
        synthetic: whether the model was trained on synthetic phantoms.
        averaged: names of the reconstructions that a scan's probabilities are averaged over.
    """
    averaged = averaged or {}
    content = {
        "synthetic": synthetic,
        "thresholds": dict(thresholds),
        "uncalibrated": list(uncalibrated),
        "predictions": [
            {
                "input_image_name": name,
                "probabilities": dict(probabilities),
                "positive": decide(probabilities, thresholds, uncalibrated),
                **({"reconstructions": averaged[name]} if name in averaged else {}),
            }
            for name, probabilities in rows
        ],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def write_predictions(
    path: Path,
    names: Sequence[str],
    probabilities: np.ndarray,
    thresholds: Mapping[str, float],
    uncalibrated: Sequence[str],
    synthetic: bool,
    averaged: Mapping[str, list[str]] | None = None,
) -> None:
    """Write calibrated probabilities (N, F) of N scans; see predictions_json for the others."""
    rows = (dict(zip(thresholds, map(float, row), strict=True)) for row in probabilities)
    content = predictions_json(
        zip(names, rows, strict=True), thresholds, uncalibrated, synthetic, averaged
    )
    atomic_write(content.encode(), path)


def write_submission(
    path: Path, names: Sequence[str], probabilities: np.ndarray, findings: Sequence[str]
) -> None:
    """Write probabilities in the challenge's format, without rounding.

    Args:
        path: JSON file to write.
        names: N names of scans.
        probabilities: (N, F), shifted by `submission_probabilities`.
        findings: F names.

    Raises:
        InputError: a name is duplicated, or a probability is not finite.
    """
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    raise_errors(
        [f"{name} is duplicated" for name in duplicates], f"{path}: one prediction per scan"
    )
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
    atomic_write(f"{text}\n".encode(), path)
