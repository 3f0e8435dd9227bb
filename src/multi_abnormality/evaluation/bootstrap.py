"""Bootstrap confidence intervals, resampled by patient.

A resample draws as many patients as there are, with replacement, and counts each scan as often as
its patient was drawn. A resample is therefore an integer weight per scan, and all scores of all
resamples follow from weighted counts and sorted cumulative sums.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from multi_abnormality.data.catalog.patient_counts import has_enough_patients
from multi_abnormality.evaluation.thresholds import CHALLENGE_THRESHOLD
from multi_abnormality.evaluation.weighted_metrics import (
    MEASURES,
    defined_mean,
    rankings_of,
    weighted_scores,
)
from multi_abnormality.utils.errors import InputError

CHUNK = 256  # resamples at a time: their (N, CHUNK) weights then fit into the cache
MIN_DEFINED = 0.95  # fraction of the resamples; with fewer, the percentiles would mislead


def bootstrap_intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    findings: Sequence[str],
    *,
    n_bootstrap: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Compute percentile intervals of all scores, each {"low", "high", "reliable"} or None.

    An interval is None if the score is undefined in more than 5 % of the resamples, such as AUROC
    with one or two positive patients. It is unreliable if fewer than 10 patients have the finding
    or fewer than 10 lack it, since the bootstrap then underestimates its width; a macro interval
    if that holds for any finding of the mean; that of CRG if fewer than 10 patients have any
    finding, or fewer than 10 lack any. The arguments are those of `challenge_scores.evaluate`.
    """
    scores = bootstrap(labels, probabilities, patients, n_bootstrap=n_bootstrap, seed=seed)
    enough = has_enough_patients(labels, patients)

    def interval(values: np.ndarray, reliable: np.bool_) -> dict[str, float | bool] | None:
        ends = percentiles(values, confidence)
        return ends and {**ends, "reliable": bool(reliable)}

    per_finding = {
        finding: {
            measure: interval(scores[measure][:, column], enough[column]) for measure in MEASURES
        }
        for column, finding in enumerate(findings)
    }
    macro = {}
    for measure in MEASURES:
        is_defined = ~np.isnan(scores[measure]).all(axis=0)
        macro[measure] = interval(defined_mean(scores[measure]), enough[is_defined].all())
    cells = labels.reshape(-1, 1), np.repeat(patients, labels.shape[1]).tolist()
    return {
        "confidence": confidence,
        "n_bootstrap": n_bootstrap,
        "macro": macro,
        "per_pathology": per_finding,
        "crg": {"CRG": interval(scores["crg"], has_enough_patients(*cells)[0])},
    }


def bootstrap(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    *,
    n_bootstrap: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Score every resample: (R, F) for each of MEASURES, (R,) for crg, NaN if undefined."""
    count, patient_of_row = encode_patients(patients, len(labels))
    rankings = rankings_of(labels, probabilities)
    chunks = [
        weighted_scores(
            labels, probabilities >= CHALLENGE_THRESHOLD, rankings, times[patient_of_row]
        )
        for times in _resample(count, n_bootstrap, seed)
    ]
    return {measure: np.concatenate([chunk[measure] for chunk in chunks]) for measure in chunks[0]}


def encode_patients(patients: Sequence[str], scans: int) -> tuple[int, np.ndarray]:
    """Return the number of patients, and the index of each scan's patient: (N,)."""
    names, patient_of_row = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    if len(patient_of_row) != scans:
        raise InputError(f"patients: {len(patient_of_row)} values for {scans} scans")
    return len(names), patient_of_row


def _resample(patients: int, n_bootstrap: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each patient was drawn, as chunks (patients, R).

    Integers throughout, so equal on every machine.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, n_bootstrap, CHUNK):
        count = min(CHUNK, n_bootstrap - start)
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
