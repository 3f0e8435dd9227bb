"""Scores under weights: a whole number for every scan, how often it counts.

A resample of patients is such a set of weights, and so is a choice of some scans among many; many
sets are scored at once, from weighted counts and sorted cumulative sums.
"""

import numpy as np

MEASURES = ("precision", "recall", "f1", "accuracy", "auroc", "average_precision")


def weighted_scores(
    labels: np.ndarray, predicted: np.ndarray, rankings: list["Ranking"], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Scores under each column of `weights`, NaN where one is undefined.

    Args:
        labels: (N, F), 0 or 1.
        predicted: (N, F), whether a finding is called positive.
        rankings: of the F findings.
        weights: (N, R), whole numbers.

    Returns:
        (R, F) for each of MEASURES, (R,) for crg.
    """
    truth = labels.astype(bool)
    rows = weights.T.astype(np.float64)
    hits = rows @ (truth & predicted)  # (R, F), whole numbers
    alarms = rows @ (~truth & predicted)
    positives = rows @ truth
    total = rows.sum(axis=1, keepdims=True)
    negatives = total - positives
    ranked = np.array([ranking.scores(weights) for ranking in rankings])  # (F, 2, R)
    return {
        "precision": _ratio(hits, hits + alarms, 0.0),
        "recall": _ratio(hits, positives, 0.0),
        "f1": _ratio(2 * hits, hits + alarms + positives, 0.0),
        "accuracy": (hits + negatives - alarms) / total,
        "auroc": ranked[:, 0].T,
        "average_precision": ranked[:, 1].T,
        "crg": _crg(*(counts.sum(axis=1) for counts in (hits, alarms, positives, negatives))),
    }


def rankings_of(labels: np.ndarray, probabilities: np.ndarray) -> list["Ranking"]:
    """Of each column of (N, F) labels and probabilities."""
    return [Ranking(*columns) for columns in zip(labels.T, probabilities.T, strict=True)]


class Ranking:
    """One finding's scans in falling order of probability, ties taken together."""

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        self._order = np.argsort(-probabilities, kind="stable")
        ranked = probabilities[self._order]
        self._group_ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        self._positive = labels[self._order].astype(np.int32)[:, None]

    def scores(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """AUROC and average precision, (R,) each, under whole-number weights (N, R)."""
        ranked = weights[self._order]
        called = np.cumsum(ranked, axis=0, dtype=np.int32)[self._group_ends]
        hits = np.cumsum(ranked * self._positive, axis=0, dtype=np.int32)[self._group_ends]
        new_hits = np.diff(hits, axis=0, prepend=0)
        new_alarms = np.diff(called - hits, axis=0, prepend=0)
        positives, negatives = hits[-1].astype(np.int64), (called - hits)[-1].astype(np.int64)
        # A tie counts half. Whole numbers up to 2 N^2: exact in float64.
        twice_area = np.einsum("gr,gr->r", new_alarms, 2 * hits - new_hits, dtype=np.float64)
        precision = hits / np.maximum(called, 1)
        area = _ratio(twice_area, 2 * positives * negatives, np.nan)
        return area, _ratio(np.einsum("gr,gr->r", new_hits, precision), positives, np.nan)


def _crg(
    hits: np.ndarray, alarms: np.ndarray, positives: np.ndarray, negatives: np.ndarray
) -> np.ndarray:
    youden = _ratio(hits, positives, np.nan) - _ratio(alarms, negatives, 0.0)
    return np.where((negatives == 0) & (positives > 0), 0.0, 1 / (3 - 2 * youden))


def _ratio(above: np.ndarray, below: np.ndarray, otherwise: float) -> np.ndarray:
    """above / below, and `otherwise` where below is 0."""
    ratio = np.full(above.shape, otherwise)
    np.divide(above, below, out=ratio, where=below != 0)
    return ratio


def defined_mean(values: np.ndarray) -> np.ndarray:
    """Mean over findings (R, F) -> (R,), leaving out NaN; NaN where none is defined."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1), np.nan)
