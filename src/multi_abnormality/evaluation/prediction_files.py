"""Files of predictions: predictions.json, and submission.json for the challenge."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from multi_abnormality.evaluation.threshold_selection import decide
from multi_abnormality.utils.atomic_io import atomic_write
from multi_abnormality.utils.errors import InputError, raise_errors

SUBMISSION_NAME = "Multi-abnormality classification"


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
