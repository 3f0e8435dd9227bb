"""Confidence bands of curves, and tests of subgroups, by a bootstrap over patients."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm

from multi_abnormality.data.catalog.label_checks import is_labeled
from multi_abnormality.evaluation.confidence_intervals import (
    MIN_DEFINED,
    ResamplingConfig,
    encode_patients,
    resampled_weights,
)
from multi_abnormality.evaluation.curves import bin_indices
from multi_abnormality.evaluation.resampled_counts import Ranking, defined_mean, ratio
from multi_abnormality.evaluation.subgroups import MIN_SCANS, members

RESAMPLES = 200  # at most; bands and standard errors need fewer than the ends of an interval
GRID = np.linspace(0, 1, 26)  # x of a band


class Band(NamedTuple):
    """Ends of the intervals of y at several x."""

    x: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Weights:
    """How often each scan counts in each resample of the patients: `rows` is (N, R)."""

    def __init__(self, patients: Sequence[str], scans: int, resampling: ResamplingConfig) -> None:
        count, patient_of_row = encode_patients(patients, scans)
        few = ResamplingConfig(
            min(resampling.n_bootstrap, RESAMPLES), resampling.confidence, resampling.seed
        )
        drawn = np.concatenate(list(resampled_weights(count, few)), axis=1)
        self.rows: np.ndarray = drawn[patient_of_row]
        self.confidence = resampling.confidence

    def band(self, x: np.ndarray, values: np.ndarray) -> Band | None:
        """Return the band of values (R, X) at x; without those that are too often undefined."""
        kept = (~np.isnan(values)).mean(axis=0) >= MIN_DEFINED
        if not kept.any():
            return None
        tails = [(1 - self.confidence) / 2, (1 + self.confidence) / 2]
        low, high = np.nanquantile(values[:, kept], tails, axis=0)
        return Band(x[kept], low, high)


def curve_bands(
    labels: np.ndarray, probabilities: np.ndarray, weights: Weights
) -> tuple[Band | None, Band | None]:
    """Return the bands of a finding's ROC and precision-recall curve.

    Args:
        labels: (N,), 0, 1 or NaN for a missing one, which is left out.
        probabilities: (N,).
        weights: resamples of the N scans.
    """
    order = np.argsort(-probabilities, kind="stable")
    order = order[is_labeled(labels[order])]
    if not len(order):
        return None, None
    ranked = probabilities[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    drawn, positive = weights.rows[order], (labels[order] == 1)[:, None]
    predicted = np.cumsum(drawn, axis=0)[ends].T.astype(float)  # (R, groups of ties)
    tp = np.cumsum(drawn * positive, axis=0)[ends].T.astype(float)
    sensitivity = np.full((len(tp), len(GRID)), np.nan)
    precision = sensitivity.copy()
    for row, (hits, every) in enumerate(zip(tp, predicted, strict=True)):
        positives, negatives = hits[-1], every[-1] - hits[-1]
        if not positives:
            continue
        recall = hits / positives
        first = np.minimum(np.searchsorted(recall, GRID), len(hits) - 1)
        precision[row] = hits[first] / np.maximum(every[first], 1)
        if negatives:
            false_rate = np.concatenate([[0], (every - hits) / negatives])
            sensitivity[row] = np.interp(GRID, false_rate, np.concatenate([[0], recall]))
    # At no recall precision is that of a single scan.
    return weights.band(GRID, sensitivity), weights.band(GRID[1:], precision[:, 1:])


def reliability_intervals(
    labels: np.ndarray, probabilities: np.ndarray, weights: Weights
) -> list[tuple[float, float] | None]:
    """Return the interval of the fraction of positives of each bin that is not empty.

    The arguments are those of `curve_bands`.
    """
    known = is_labeled(labels)
    bins, rows = bin_indices(probabilities[known]), weights.rows[known]
    found: list[tuple[float, float] | None] = []
    for number in np.unique(bins):
        inside = bins == number
        counts = rows[inside].sum(axis=0)
        share = ratio(rows[inside & (labels[known] == 1)].sum(axis=0), counts, np.nan)
        band = weights.band(np.zeros(1), share[:, None])
        found.append(band and (float(band.low[0]), float(band.high[0])))
    return found


def group_differences(
    groups: pd.DataFrame, labels: np.ndarray, probabilities: np.ndarray, weights: Weights
) -> dict[str, dict[str, dict[str, Any]]]:
    """Compare the macro AUROC of each group with that of the trait's other scans.

    A z test with the bootstrap's standard error, two-sided; p is adjusted for the number of groups
    (Holm 1979). Both means are over the findings that have both classes in both parts.

    Args:
        groups: N rows, from `subgroups.subgroup_columns`.
        labels: (N, F), 0, 1 or NaN for a missing one.
        probabilities: (N, F).
        weights: resamples of the N scans.

    Returns:
        {"difference", "low", "high", "p"} by trait and group, for groups that are scored.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    tests: list[dict[str, Any]] = []
    once = np.ones((len(labels), 1), np.int32)
    rows = np.concatenate([once, weights.rows], axis=1)
    for trait, kinds in members(groups).items():
        known = np.any(list(kinds.values()), axis=0)
        for kind, inside in kinds.items():
            others = known & ~inside
            if min(inside.sum(), others.sum()) < MIN_SCANS:
                continue
            one, rest = (_aurocs(labels[p], probabilities[p], rows[p]) for p in (inside, others))
            shared = ~np.isnan(one[0]) & ~np.isnan(rest[0])
            gaps = defined_mean((one - rest)[:, shared]) if shared.any() else np.full(1, np.nan)
            resampled = gaps[1:][~np.isnan(gaps[1:])]
            error = float(resampled.std(ddof=1)) if len(resampled) > 1 else 0.0
            if np.isnan(gaps[0]) or not error:
                continue
            gap, half = float(gaps[0]), float(norm.ppf((1 + weights.confidence) / 2)) * error
            test = {"difference": gap, "low": gap - half, "high": gap + half}
            tests.append(test | {"p": float(2 * norm.sf(abs(gap) / error))})
            found.setdefault(trait, {})[kind] = tests[-1]
    largest = 0.0
    for rank, test in enumerate(sorted(tests, key=lambda test: test["p"])):
        largest = max(largest, min(1.0, test["p"] * (len(tests) - rank)))
        test["p"] = largest
    return found


def _aurocs(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the AUROC of each finding under each set of weights: (R, F)."""
    columns = zip(labels.T, probabilities.T, strict=True)
    return np.array([Ranking(*column).scores(weights)[0] for column in columns]).T
