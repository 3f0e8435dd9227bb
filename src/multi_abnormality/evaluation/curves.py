"""ROC, precision-recall and reliability curves, thinned."""

from typing import NamedTuple

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from multi_abnormality.data.catalog.label_checks import labeled_cells

POINTS = 60  # maximum of a thinned curve
BINS = 10  # bins of equal width in a reliability curve


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


def thin_indices(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> np.ndarray:
    """Choose points of a curve, both ends included: all corners, or as many evenly along it."""
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    different = np.flatnonzero(np.diff(length, prepend=-1) > 0)
    dx, dy = np.diff(x[different]), np.diff(y[different])
    # Parallel, but in the opposite direction, is a corner, too.
    is_corner = (np.abs(dx[:-1] * dy[1:] - dx[1:] * dy[:-1]) > 1e-12) | (
        dx[:-1] * dx[1:] + dy[:-1] * dy[1:] < 0
    )
    corners: np.ndarray = different[np.concatenate([[True], is_corner, [True]])[: len(different)]]
    if len(corners) <= points:
        return corners
    targets = np.linspace(0, length[-1], points)
    return np.unique(np.searchsorted(length, targets * (1 - 1e-12)))
