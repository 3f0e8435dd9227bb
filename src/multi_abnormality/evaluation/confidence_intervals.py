"""Bootstrap confidence intervals, resampled by patient.

A resample draws as many patients as there are, with replacement, and counts each scan as often as
its patient was drawn. A resample is therefore an integer weight per scan.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from multi_abnormality.data.catalog.label_checks import FEW, has_enough_patients
from multi_abnormality.evaluation.metric_registry import (
    METRICS,
    Metric,
    metric_names,
    score_finding,
)
from multi_abnormality.evaluation.resampled_counts import (
    Ranking,
    ResampledCounts,
    defined_mean,
    resampled_crg,
)
from multi_abnormality.evaluation.threshold_selection import CHALLENGE_THRESHOLD
from multi_abnormality.utils.errors import InputError, plural

CHUNK = 256  # resamples at a time: their (N, CHUNK) weights then fit into the cache
MIN_DEFINED = 0.95  # fraction of the resamples; with fewer, the percentiles would mislead
NOT_ESTIMABLE = "interval not estimable: too few patients"
UNRELIABLE = (
    f"unreliable interval: fewer than {FEW} patients with or without the finding, or one of the "
    "findings of a mean."
)


@dataclass(frozen=True)
class ResamplingConfig:
    """Resampling settings.

    Attributes:
        n_bootstrap: number of bootstrap resamples, and of permutations in a comparison.
        confidence: confidence level of the intervals, such as 0.95.
        seed: random seed.
    """

    n_bootstrap: int
    confidence: float
    seed: int


class Resampler:
    """Labels and probabilities of N scans, to be scored under many sets of weights.

    Args:
        labels: (N, F), 0, 1 or NaN for a missing one, which is left out.
        probabilities: (N, F).
        ranks: (N, F), what metrics of the order of scans use; None for the probabilities.
    """

    def __init__(
        self, labels: np.ndarray, probabilities: np.ndarray, ranks: np.ndarray | None = None
    ) -> None:
        self._labels = labels
        self._probabilities = probabilities
        self._ranks = probabilities if ranks is None else ranks
        columns = zip(labels.T, self._ranks.T, strict=True)
        self._rankings = [Ranking(*column) for column in columns]

    def scores(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Compute all metrics under each column of `weights`, NaN where one is undefined.

        Args:
            weights: (N, R) integers.

        Returns:
            (R, F) for each of METRICS, (R,) for crg.
        """
        counts = self._count(weights)
        scores = {
            name: metric.resampled(counts)
            if metric.resampled
            else self._each(name, metric, weights)
            for name, metric in METRICS.items()
        }
        if (unlabeled := counts.positives + counts.negatives == 0).any():
            scores = {name: np.where(unlabeled, np.nan, each) for name, each in scores.items()}
        return scores | {"crg": resampled_crg(counts)}

    def _count(self, weights: np.ndarray) -> ResampledCounts:
        rows = weights.T.astype(np.float64)
        positive, negative = self._labels == 1, self._labels == 0
        predicted = self._probabilities >= CHALLENGE_THRESHOLD
        ranked = np.array([ranking.scores(weights) for ranking in self._rankings])  # (F, 2, R)
        return ResampledCounts(
            tp=rows @ (positive & predicted),
            fp=rows @ (negative & predicted),
            positives=rows @ positive,
            negatives=rows @ negative,
            auroc=ranked[:, 0].T,
            average_precision=ranked[:, 1].T,
        )

    def _each(self, name: str, metric: Metric, weights: np.ndarray) -> np.ndarray:
        """Compute a metric that has no version for many resamples: (R, F)."""
        values = self._ranks if metric.rank_based else self._probabilities
        scores = np.full((weights.shape[1], values.shape[1]), np.nan)
        for resample, times in enumerate(weights.T):
            rows = np.repeat(np.arange(len(values)), times)
            for column in range(values.shape[1]):
                score = score_finding(name, self._labels[rows, column], values[rows, column])
                scores[resample, column] = np.nan if score is None else score
        return scores


def bootstrap_intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    findings: Sequence[str],
    resampling: ResamplingConfig,
    ranks: np.ndarray | None = None,
) -> dict[str, Any]:
    """Compute percentile intervals of all scores, each {"low", "high", "reliable"} or None.

    An interval is None if the score is undefined in more than 5 % of the resamples, such as AUROC
    with one or two positive patients. It is unreliable if fewer than 10 patients have the finding
    or fewer than 10 lack it, since the bootstrap then underestimates its width; a macro interval
    if that holds for any finding of the mean; that of CRG if fewer than 10 patients have any
    finding, or fewer than 10 lack any. The arguments are those of `scores.evaluate`.
    """
    scores = bootstrap(labels, probabilities, patients, resampling, ranks)
    enough = has_enough_patients(labels, patients)

    def interval(values: np.ndarray, reliable: np.bool_) -> dict[str, float | bool] | None:
        ends = percentiles(values, resampling.confidence)
        return ends and {**ends, "reliable": bool(reliable)}

    macro = {}
    for name in metric_names():
        is_defined = ~np.isnan(scores[name]).all(axis=0)
        macro[name] = interval(defined_mean(scores[name]), enough[is_defined].all())
    cells = labels.reshape(-1, 1), np.repeat(patients, labels.shape[1]).tolist()
    return {
        "confidence": resampling.confidence,
        "n_bootstrap": resampling.n_bootstrap,
        "macro": macro,
        "per_pathology": {
            finding: {
                name: interval(scores[name][:, column], enough[column]) for name in metric_names()
            }
            for column, finding in enumerate(findings)
        },
        "crg": {"CRG": interval(scores["crg"], has_enough_patients(*cells)[0])},
    }


def bootstrap(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    resampling: ResamplingConfig,
    ranks: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Score every resample: (R, F) for each of METRICS, (R,) for crg, NaN if undefined."""
    count, patient_of_row = encode_patients(patients, len(labels))
    resampler = Resampler(labels, probabilities, ranks)
    return concatenate(
        resampler.scores(times[patient_of_row]) for times in resampled_weights(count, resampling)
    )


def concatenate(chunks: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join the scores of several chunks of resamples."""
    parts = list(chunks)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def encode_patients(patients: Sequence[str], scans: int) -> tuple[int, np.ndarray]:
    """Return the number of patients, and the index of each scan's patient: (N,)."""
    names, patient_of_row = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    if len(patient_of_row) != scans:
        raise InputError(
            f"patients: {len(patient_of_row)} of them for {plural(scans, 'scan', 'scans')}"
        )
    return len(names), patient_of_row


def resampled_weights(patients: int, resampling: ResamplingConfig) -> Iterator[np.ndarray]:
    """Yield how often each patient was drawn, as chunks (patients, R).

    Integers throughout, so equal on every machine.
    """
    generator = np.random.default_rng(resampling.seed)
    for start in range(0, resampling.n_bootstrap, CHUNK):
        count = min(CHUNK, resampling.n_bootstrap - start)
        drawn = generator.integers(patients, size=(count, patients))
        cells = drawn * count + np.arange(count)[:, None]
        times = np.bincount(cells.ravel(), minlength=patients * count)
        yield times.reshape(patients, count).astype(np.int32)


def percentiles(values: np.ndarray, confidence: float) -> dict[str, float] | None:
    """Return the central interval of `values`, or None if more than 5 % of them are undefined."""
    defined = values[~np.isnan(values)]
    if len(defined) < MIN_DEFINED * len(values):
        return None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"low": float(low), "high": float(high)}
