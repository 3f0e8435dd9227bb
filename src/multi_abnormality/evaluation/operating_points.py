"""Operating points: what a threshold means in counts, sensitivity and predictive values."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from multi_abnormality.evaluation.confidence_intervals import (
    ResamplingConfig,
    encode_patients,
    percentiles,
    resampled_weights,
)

# Thresholds whose counts are listed beside a finding's own.
OTHER_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
RATIOS = ("sensitivity", "specificity", "ppv", "npv", "lr_positive", "lr_negative")

Counts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # TP, FP, TN, FN


def operating_points(
    labels: np.ndarray,
    probabilities: np.ndarray,
    thresholds: np.ndarray,
    patients: Sequence[str],
    findings: Sequence[str],
    resampling: ResamplingConfig,
) -> dict[str, Any]:
    """Compute counts and ratios of each finding at its threshold, and at others.

    Args:
        labels: (N, F), 0 or 1; a row per scan.
        probabilities: (N, F), calibrated.
        thresholds: (F,); a scan is positive from its finding's threshold on.
        patients: N ids; a patient's scans are resampled together.
        findings: F names.
        resampling: settings of the intervals.

    Returns:
        By finding: threshold, tp, fp, tn, fn, a {"value", "low", "high"} for each of RATIOS, and
        under "other_thresholds" a row without intervals per threshold. A ratio is None if its
        denominator is 0, and the ends of its interval if it is undefined in more than 5 % of the
        resamples. The likelihood ratios are sensitivity / (1 - specificity) and
        (1 - sensitivity) / specificity.
    """
    positive = probabilities >= thresholds
    counts = count_cells(labels, positive, np.ones((len(labels), 1)))
    values = compute_ratios(counts)
    intervals = _intervals(labels, positive, patients, resampling)
    found = {}
    for column, finding in enumerate(findings):
        row: dict[str, Any] = {"threshold": float(thresholds[column])}
        row |= _cells(counts, column)
        for name in RATIOS:
            ends = percentiles(intervals[name][:, column], resampling.confidence)
            value = _plain(values[name][0, column])
            row[name] = {"value": value, **(ends or {"low": None, "high": None})}
        row["other_thresholds"] = _other_thresholds(labels[:, column], probabilities[:, column])
        found[finding] = row
    return found


def count_cells(labels: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> Counts:
    """Count true and false positives and negatives.

    Args:
        labels: (N, F), 0 or 1.
        positive: (N, F) bool, the predictions.
        weights: (N, R), how often each scan counts.

    Returns:
        TP, FP, TN, FN, each (R, F).
    """
    rows, y_true = weights.T.astype(np.float64), labels == 1
    y_false = labels == 0
    tp, fp = rows @ (y_true & positive), rows @ (y_false & positive)
    tn, fn = rows @ (y_false & ~positive), rows @ (y_true & ~positive)
    return tp, fp, tn, fn


def compute_ratios(counts: Counts) -> dict[str, np.ndarray]:
    """Compute each of RATIOS from counts of any shape; NaN where a denominator is 0."""
    tp, fp, tn, fn = counts
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "lr_positive": tp * (tn + fp) / (fp * (tp + fn)),
            "lr_negative": fn * (tn + fp) / (tn * (tp + fn)),
        }
    return {name: np.where(np.isfinite(each), each, np.nan) for name, each in ratios.items()}


def _intervals(
    labels: np.ndarray,
    positive: np.ndarray,
    patients: Sequence[str],
    resampling: ResamplingConfig,
) -> dict[str, np.ndarray]:
    """Compute each of RATIOS in every resample of the patients: (R, F)."""
    count, patient_of_row = encode_patients(patients, len(labels))
    chunks = [
        count_cells(labels, positive, times[patient_of_row])
        for times in resampled_weights(count, resampling)
    ]
    tp, fp, tn, fn = (np.concatenate(cells) for cells in zip(*chunks, strict=True))
    return compute_ratios((tp, fp, tn, fn))


def _other_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, Any]]:
    """Return counts and ratios of one finding, (N,) each, at OTHER_THRESHOLDS."""
    columns = np.repeat(labels[:, None], len(OTHER_THRESHOLDS), axis=1)
    positive = probabilities[:, None] >= np.array(OTHER_THRESHOLDS)
    counts = count_cells(columns, positive, np.ones((len(labels), 1)))
    ratios = compute_ratios(counts)
    return [
        {
            "threshold": threshold,
            **_cells(counts, column),
            **{name: _plain(ratios[name][0, column]) for name in RATIOS},
        }
        for column, threshold in enumerate(OTHER_THRESHOLDS)
    ]


def _cells(counts: Counts, column: int) -> dict[str, int]:
    names = ("tp", "fp", "tn", "fn")
    return {name: int(each[0, column]) for name, each in zip(names, counts, strict=True)}


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
