"""Intervals by bootstrap over patients.

A resample draws as many patients as there are, with replacement, and takes each one's scans as
often as the patient was drawn. So a resample is a whole-number weight for every scan, and every
score of every resample comes from weighted counts and sorted cumulative sums.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from multi_abnormality.errors import InputError
from multi_abnormality.evaluation import THRESHOLD

CHUNK = 256  # resamples at a time: keeps a chunk's (N, CHUNK) weights in the cache
DEFINED_SHARE = 0.95  # of the resamples; below it, a score's percentiles would mislead
MEASURES = ("precision", "recall", "f1", "accuracy", "auroc", "average_precision")


def intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    findings: Sequence[str],
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict:
    """Percentile intervals of every score, each {"low", "high"} or None.

    None stands where the score is undefined in more than 5 % of the resamples, such as AUROC
    with one or two positive patients. Arguments are those of `scores.evaluate`.
    """
    drawn = bootstrap(labels, probabilities, patients, resamples=resamples, seed=seed)
    per_finding = {
        finding: {
            measure: _percentiles(drawn[measure][:, column], confidence) for measure in MEASURES
        }
        for column, finding in enumerate(findings)
    }
    macro = {
        measure: _percentiles(_defined_mean(drawn[measure]), confidence) for measure in MEASURES
    }
    return {
        "confidence": confidence,
        "resamples": resamples,
        "macro": macro,
        "per_pathology": per_finding,
        "crg": {"CRG": _percentiles(drawn["crg"], confidence)},
    }


def bootstrap(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Scores of every resample: (R, F) for each of MEASURES, (R,) for crg, NaN if undefined."""
    names, patient_of_row = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    if len(patient_of_row) != len(labels):
        raise InputError(f"patients: {len(patient_of_row)} of them for {len(labels)} scans")
    rankings = [
        Ranking(labels[:, column], probabilities[:, column]) for column in range(labels.shape[1])
    ]
    chunks = [
        _chunk_scores(labels, probabilities >= THRESHOLD, rankings, drawn[patient_of_row])
        for drawn in _draw(len(names), resamples, seed)
    ]
    return {measure: np.concatenate([chunk[measure] for chunk in chunks]) for measure in chunks[0]}


def _draw(patients: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each patient was drawn: (patients, R) chunks. Whole numbers throughout, so the
    same on every machine."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, CHUNK):
        count = min(CHUNK, resamples - start)
        drawn = generator.integers(patients, size=(count, patients))
        cells = drawn * count + np.arange(count)[:, None]
        times = np.bincount(cells.ravel(), minlength=patients * count)
        yield times.reshape(patients, count).astype(np.int32)


def _chunk_scores(
    labels: np.ndarray, predicted: np.ndarray, rankings: list["Ranking"], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Scores under each column of `weights` (N, R)."""
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
    return np.divide(above, below, out=np.full(above.shape, otherwise), where=below != 0)


def _defined_mean(values: np.ndarray) -> np.ndarray:
    """Mean over findings (R, F) -> (R,), leaving out NaN; NaN where none is defined."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1), np.nan)


def _percentiles(values: np.ndarray, confidence: float) -> dict[str, float] | None:
    defined = values[~np.isnan(values)]
    if len(defined) < DEFINED_SHARE * len(values):
        return None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"low": float(low), "high": float(high)}
