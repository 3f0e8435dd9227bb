"""Weighted metrics, vectorized over many sets of integer weights, one weight per scan.

A resample of patients is such a set of weights, and so is a subset of the scans. The scores follow
from weighted counts and sorted cumulative sums.
"""

import numpy as np

MEASURES = ("precision", "recall", "f1", "accuracy", "auroc", "average_precision")


def weighted_scores(
    labels: np.ndarray, predicted: np.ndarray, rankings: list["Ranking"], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute all scores under each column of `weights`, NaN where one is undefined.

    Args:
        labels: (N, F), 0 or 1.
        predicted: (N, F) bool, whether a finding is predicted positive.
        rankings: one ranking per finding, from `rankings_of`.
        weights: (N, R) integers.

    Returns:
        (R, F) for each of MEASURES, (R,) for crg.
    """
    y_true = labels.astype(bool)
    rows = weights.T.astype(np.float64)
    tp = rows @ (y_true & predicted)  # (R, F), integers
    fp = rows @ (~y_true & predicted)
    positives = rows @ y_true
    total = rows.sum(axis=1, keepdims=True)
    negatives = total - positives
    ranked = np.array([ranking.scores(weights) for ranking in rankings])  # (F, 2, R)
    return {
        "precision": _ratio(tp, tp + fp, 0.0),
        "recall": _ratio(tp, positives, 0.0),
        "f1": _ratio(2 * tp, tp + fp + positives, 0.0),
        "accuracy": (tp + negatives - fp) / total,
        "auroc": ranked[:, 0].T,
        "average_precision": ranked[:, 1].T,
        "crg": _crg(*(counts.sum(axis=1) for counts in (tp, fp, positives, negatives))),
    }


def rankings_of(labels: np.ndarray, probabilities: np.ndarray) -> list["Ranking"]:
    """Rank the scans by each column of (N, F) labels and probabilities."""
    return [Ranking(*columns) for columns in zip(labels.T, probabilities.T, strict=True)]


class Ranking:
    """One finding's scans in falling order of probability, with ties grouped."""

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        self._order = np.argsort(-probabilities, kind="stable")
        ranked = probabilities[self._order]
        self._group_ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        self._positive = labels[self._order].astype(np.int32)[:, None]

    def scores(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute AUROC and average precision, (R,) each, under integer weights (N, R)."""
        ranked = weights[self._order]
        predicted = np.cumsum(ranked, axis=0, dtype=np.int32)[self._group_ends]
        tp = np.cumsum(ranked * self._positive, axis=0, dtype=np.int32)[self._group_ends]
        new_tp = np.diff(tp, axis=0, prepend=0)
        new_fp = np.diff(predicted - tp, axis=0, prepend=0)
        positives, negatives = tp[-1].astype(np.int64), (predicted - tp)[-1].astype(np.int64)
        # A tie counts half. Integers up to 2 N^2: exact in float64.
        twice_area = np.einsum("gr,gr->r", new_fp, 2 * tp - new_tp, dtype=np.float64)
        precision = tp / np.maximum(predicted, 1)
        area = _ratio(twice_area, 2 * positives * negatives, np.nan)
        return area, _ratio(np.einsum("gr,gr->r", new_tp, precision), positives, np.nan)


def _crg(
    tp: np.ndarray, fp: np.ndarray, positives: np.ndarray, negatives: np.ndarray
) -> np.ndarray:
    youden = _ratio(tp, positives, np.nan) - _ratio(fp, negatives, 0.0)
    return np.where((negatives == 0) & (positives > 0), 0.0, 1 / (3 - 2 * youden))


def _ratio(above: np.ndarray, below: np.ndarray, otherwise: float) -> np.ndarray:
    """Divide above by below; `otherwise` where below is 0."""
    ratio = np.full(above.shape, otherwise)
    np.divide(above, below, out=ratio, where=below != 0)
    return ratio


def defined_mean(values: np.ndarray) -> np.ndarray:
    """Average over findings (R, F) -> (R,) without NaN; NaN where none is defined."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1), np.nan)
