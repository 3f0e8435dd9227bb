"""Metrics of many resamples at once: integer weights, one per scan, in place of repeated rows.

A bootstrap resample of patients is such a set of weights, and so is a subset of the scans. The
metrics follow from weighted counts and sorted cumulative sums.
"""

from dataclasses import dataclass

import numpy as np

from multi_abnormality.data.catalog.label_checks import is_labeled


@dataclass(frozen=True)
class ResampledCounts:
    """Counts of F findings in R resamples, and the two metrics that need the order of scans.

    All are (R, F). AUROC and average precision are NaN where they are undefined.
    """

    tp: np.ndarray
    fp: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray
    auroc: np.ndarray
    average_precision: np.ndarray


class Ranking:
    """Scans in decreasing order of the probability of one finding, with ties grouped.

    Args:
        labels: (N,), 0, 1 or NaN for a missing one, which is left out.
        probabilities: (N,), or anything of the same order.
    """

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        order = np.argsort(-probabilities, kind="stable")
        self._order = order[is_labeled(labels[order])]
        ranked = probabilities[self._order]
        self._group_ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        self._positive = labels[self._order].astype(np.int32)[:, None]

    def scores(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute AUROC and average precision, (R,) each, under integer weights (N, R)."""
        if not len(self._order):
            undefined = np.full(weights.shape[1], np.nan)
            return undefined, undefined
        ranked = weights[self._order]
        predicted = np.cumsum(ranked, axis=0, dtype=np.int32)[self._group_ends]
        tp = np.cumsum(ranked * self._positive, axis=0, dtype=np.int32)[self._group_ends]
        new_tp = np.diff(tp, axis=0, prepend=0)
        new_fp = np.diff(predicted - tp, axis=0, prepend=0)
        positives, negatives = tp[-1].astype(np.int64), (predicted - tp)[-1].astype(np.int64)
        # A tie counts half. Integers up to 2 N^2: exact in float64.
        twice_area = np.einsum("gr,gr->r", new_fp, 2 * tp - new_tp, dtype=np.float64)
        precision = tp / np.maximum(predicted, 1)
        area = ratio(twice_area, 2 * positives * negatives, np.nan)
        return area, ratio(np.einsum("gr,gr->r", new_tp, precision), positives, np.nan)


def resampled_crg(counts: ResampledCounts) -> np.ndarray:
    """Compute CRG of each resample: (R,), NaN without positives."""
    tp, fp, positives, negatives = (
        cells.sum(axis=1) for cells in (counts.tp, counts.fp, counts.positives, counts.negatives)
    )
    youden = ratio(tp, positives, np.nan) - ratio(fp, negatives)
    return np.where((negatives == 0) & (positives > 0), 0.0, 1 / (3 - 2 * youden))


def ratio(above: np.ndarray, below: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
    """Divide above by below; `otherwise` where below is 0."""
    quotient = np.full(above.shape, otherwise)
    np.divide(above, below, out=quotient, where=below != 0)
    return quotient


def defined_mean(values: np.ndarray) -> np.ndarray:
    """Average over findings (R, F) -> (R,) without NaN; NaN where none is defined."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1), np.nan)
