"""Points of ROC, precision-recall and reliability curves, thinned for files and drawings."""

from typing import NamedTuple

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

POINTS = 60  # at most, of a thinned curve
BINS = 10  # of equal width, in a reliability curve


class Curve(NamedTuple):
    x: np.ndarray
    y: np.ndarray


class Bins(NamedTuple):
    """The bins that hold a scan: mean probability, share of positives, number of scans."""

    predicted: np.ndarray
    observed: np.ndarray
    scans: np.ndarray


def roc(labels: np.ndarray, probabilities: np.ndarray) -> Curve | None:
    """False positive rate against true positive rate; None without both classes."""
    if len(np.unique(labels)) < 2:
        return None
    false_rate, true_rate, _ = roc_curve(labels, probabilities)
    return _thin(false_rate, true_rate)


def precision_recall(labels: np.ndarray, probabilities: np.ndarray) -> Curve | None:
    """Recall against precision, recall rising; None without positives."""
    if not labels.any():
        return None
    precision, recall, _ = precision_recall_curve(labels, probabilities)
    return _thin(recall[::-1], precision[::-1])


def reliability_bins(labels: np.ndarray, probabilities: np.ndarray) -> Bins:
    """Bins over any number of cells: `labels` and `probabilities` of one shape."""
    chances = probabilities.ravel()
    place = np.minimum((chances * BINS).astype(int), BINS - 1)
    scans = np.bincount(place, minlength=BINS)
    filled = scans > 0
    predicted = np.bincount(place, weights=chances, minlength=BINS)[filled] / scans[filled]
    observed = np.bincount(place, weights=labels.ravel(), minlength=BINS)[filled] / scans[filled]
    return Bins(predicted, observed, scans[filled])


def mean_curve(curves: list[Curve]) -> Curve:
    """Mean height of curves, read off at POINTS places along x."""
    x = np.linspace(0, 1, POINTS)
    return Curve(x, np.mean([np.interp(x, curve.x, curve.y) for curve in curves], axis=0))


def _thin(x: np.ndarray, y: np.ndarray) -> Curve:
    """Keep POINTS points, evenly along the curve's length, both ends included."""
    if len(x) <= POINTS:
        return Curve(x, y)
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    targets = np.linspace(0, length[-1], POINTS)
    kept = np.unique(np.searchsorted(length, targets * (1 - 1e-12)))
    return Curve(x[kept], y[kept])
