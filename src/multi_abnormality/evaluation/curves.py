"""ROC, precision-recall and reliability curves, thinned, for charts and for `dvc plots`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve, roc_curve

from multi_abnormality.data.catalog.label_checks import labeled_cells

POINTS = 60  # maximum of a thinned curve
BINS = 10  # bins of equal width in a reliability curve
MEAN = "All findings"  # mean of the curves; for reliability, all label cells together
DECIMALS = 5


class Curve(NamedTuple):
    """Points of a curve."""

    x: np.ndarray
    y: np.ndarray


class Bins(NamedTuple):
    """Non-empty bins: mean probability, fraction of positives, number of scans."""

    predicted: np.ndarray
    observed: np.ndarray
    scans: np.ndarray


def roc(labels: np.ndarray, probabilities: np.ndarray) -> Curve | None:
    """Return true over false positive rate, without missing labels; None without both classes."""
    labels, probabilities = labeled_cells(labels, probabilities)
    if len(np.unique(labels)) < 2:
        return None
    false_rate, true_rate, _ = roc_curve(labels, probabilities)
    return _thin(false_rate, true_rate)


def precision_recall(labels: np.ndarray, probabilities: np.ndarray) -> Curve | None:
    """Return precision over rising recall, without missing labels; None without positives."""
    labels, probabilities = labeled_cells(labels, probabilities)
    if not labels.any():
        return None
    precision, recall, _ = precision_recall_curve(labels, probabilities)
    return _thin(recall[::-1], precision[::-1])


def reliability_bins(labels: np.ndarray, probabilities: np.ndarray) -> Bins:
    """Bin label cells that are not missing by probability.

    `labels` and `probabilities` have the same shape.
    """
    y_true, probs = labeled_cells(labels, probabilities)
    bin_of = bin_indices(probs)
    scans = np.bincount(bin_of, minlength=BINS)
    filled = scans > 0
    predicted = np.bincount(bin_of, weights=probs, minlength=BINS)[filled] / scans[filled]
    observed = np.bincount(bin_of, weights=y_true, minlength=BINS)[filled] / scans[filled]
    return Bins(predicted, observed, scans[filled])


def bin_indices(probabilities: np.ndarray) -> np.ndarray:
    """Return the bin of each probability."""
    bins: np.ndarray = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    return bins


def mean_curve(curves: list[Curve]) -> Curve:
    """Average curves over y, interpolated at POINTS values of x."""
    x = np.linspace(0, 1, POINTS)
    return Curve(x, np.mean([np.interp(x, curve.x, curve.y) for curve in curves], axis=0))


def _thin(x: np.ndarray, y: np.ndarray) -> Curve:
    kept = thin_indices(x, y)
    return Curve(x[kept], y[kept])


def thin_indices(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Choose POINTS points of a curve, evenly along its length, both ends included."""
    if len(x) <= POINTS:
        return np.arange(len(x))
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    targets = np.linspace(0, length[-1], POINTS)
    return np.unique(np.searchsorted(length, targets * (1 - 1e-12)))


def write_plots(
    folder: Path, labels: np.ndarray, probabilities: np.ndarray, findings: Sequence[str]
) -> None:
    """Write roc.csv, precision_recall.csv and reliability.csv, one row per point.

    A finding whose curve is undefined (no positives, or no negatives) has no rows.

    Args:
        folder: directory of the files.
        labels: (N, F), 0 or 1.
        probabilities: (N, F).
        findings: F names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cells = [
        (finding, labels[:, column], probabilities[:, column])
        for column, finding in enumerate(findings)
    ]
    for name, curve_of, axes in (
        ("roc", roc, ("false_positive_rate", "true_positive_rate")),
        ("precision_recall", precision_recall, ("recall", "precision")),
    ):
        curves = {finding: curve_of(*columns) for finding, *columns in cells}
        defined = {finding: curve for finding, curve in curves.items() if curve is not None}
        mean = {MEAN: mean_curve(list(defined.values()))} if defined else {}
        _write(folder / f"{name}.csv", mean | defined, axes)
    bins = {finding: reliability_bins(*columns) for finding, *columns in cells}
    every = {MEAN: reliability_bins(labels, probabilities)}
    _write(folder / "reliability.csv", every | bins, Bins._fields)


def _write(path: Path, curves: Mapping[str, tuple[np.ndarray, ...]], axes: Sequence[str]) -> None:
    """Write a row for each point of each curve."""
    frames = [
        pd.DataFrame({"finding": finding, **dict(zip(axes, curve, strict=True))})
        for finding, curve in curves.items()
    ]
    table = pd.concat(frames) if frames else pd.DataFrame(columns=["finding", *axes])
    table.round(DECIMALS).to_csv(path, index=False, lineterminator="\n")
