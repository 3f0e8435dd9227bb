"""Intervals by bootstrap over patients.

A resample draws as many patients as there are, with replacement, and takes each one's scans as
often as the patient was drawn. So a resample is a whole-number weight for every scan, and every
score of every resample comes from weighted counts and sorted cumulative sums.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from multi_abnormality.data.patients import has_enough_patients
from multi_abnormality.errors import InputError
from multi_abnormality.evaluation.thresholds import CHALLENGE_THRESHOLD
from multi_abnormality.evaluation.weighted import (
    MEASURES,
    defined_mean,
    rankings_of,
    weighted_scores,
)

CHUNK = 256  # resamples at a time: keeps a chunk's (N, CHUNK) weights in the cache
DEFINED_SHARE = 0.95  # of the resamples; below it, a score's percentiles would mislead


def intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    findings: Sequence[str],
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Percentile intervals of every score, each {"low", "high", "reliable"} or None.

    None stands where the score is undefined in more than 5 % of the resamples, such as AUROC
    with one or two positive patients. An interval is unreliable, since the bootstrap then
    underestimates its width, where fewer than 10 patients have the finding or fewer than 10 lack
    it; a macro interval where that holds for any finding of the mean; CRG's where fewer than 10
    patients have any finding, or fewer than 10 lack any. Arguments are those of `scores.evaluate`.
    """
    drawn = bootstrap(labels, probabilities, patients, resamples=resamples, seed=seed)
    enough = has_enough_patients(labels, patients)

    def interval(values: np.ndarray, reliable: np.bool_) -> dict[str, float | bool] | None:
        ends = percentiles(values, confidence)
        return ends and {**ends, "reliable": bool(reliable)}

    per_finding = {
        finding: {
            measure: interval(drawn[measure][:, column], enough[column]) for measure in MEASURES
        }
        for column, finding in enumerate(findings)
    }
    macro = {}
    for measure in MEASURES:
        counted = ~np.isnan(drawn[measure]).all(axis=0)
        macro[measure] = interval(defined_mean(drawn[measure]), enough[counted].all())
    cells = labels.reshape(-1, 1), np.repeat(patients, labels.shape[1]).tolist()
    return {
        "confidence": confidence,
        "resamples": resamples,
        "macro": macro,
        "per_pathology": per_finding,
        "crg": {"CRG": interval(drawn["crg"], has_enough_patients(*cells)[0])},
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
    count, patient_of_row = number_patients(patients, len(labels))
    rankings = rankings_of(labels, probabilities)
    chunks = [
        weighted_scores(
            labels, probabilities >= CHALLENGE_THRESHOLD, rankings, drawn[patient_of_row]
        )
        for drawn in _draw(count, resamples, seed)
    ]
    return {measure: np.concatenate([chunk[measure] for chunk in chunks]) for measure in chunks[0]}


def number_patients(patients: Sequence[str], scans: int) -> tuple[int, np.ndarray]:
    """How many patients there are, and for each scan, (N,), which of them is its own."""
    names, patient_of_row = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    if len(patient_of_row) != scans:
        raise InputError(f"patients: {len(patient_of_row)} of them for {scans} scans")
    return len(names), patient_of_row


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


def percentiles(values: np.ndarray, confidence: float) -> dict[str, float] | None:
    """The middle `confidence` of values; None where more than 5 % of them are undefined."""
    defined = values[~np.isnan(values)]
    if len(defined) < DEFINED_SHARE * len(values):
        return None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"low": float(low), "high": float(high)}
