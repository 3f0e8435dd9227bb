"""Scores of predictions: the content of `metrics/evaluate.json` and `metrics/scores.json`."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from multi_abnormality.evaluation.calibration import calibration_scores
from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig, bootstrap_intervals
from multi_abnormality.evaluation.metric_registry import (
    CHALLENGE_METRICS,
    METRICS,
    crg,
    metric_names,
    score_finding,
)
from multi_abnormality.evaluation.threshold_selection import CHALLENGE_THRESHOLD


def evaluate(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    findings: Sequence[str],
    resampling: ResamplingConfig,
    uncalibrated: np.ndarray | None = None,
    calibrated: np.ndarray | None = None,
    ranks: np.ndarray | None = None,
) -> dict[str, Any]:
    """Score predictions.

    Args:
        labels: (N, F), 0, 1 or NaN for a missing one, which is left out; a row per scan.
        probabilities: (N, F), from 0 to 1; a finding is positive from 0.5 on.
        patients: N ids; a patient's scans are resampled together.
        findings: F names.
        resampling: settings of the intervals.
        uncalibrated: (N, F) probabilities before calibration, to report its effect.
        calibrated: (N, F) probabilities after it; None: they are `probabilities`.
        ranks: (N, F), what metrics of the order of scans use; None: `probabilities`.

    Returns:
        Plain numbers by metric, and None where one is undefined.
    """
    after = probabilities if calibrated is None else calibrated
    calibration = {"after": calibration_scores(labels, after, findings)}
    if uncalibrated is not None:
        calibration["before"] = calibration_scores(labels, uncalibrated, findings)
    return {
        **official_scores(labels, probabilities, findings, ranks),
        "calibration": calibration,
        "counts": {
            "scans": len(labels),
            "patients": len(set(patients)),
            "positives": dict(zip(findings, (labels == 1).sum(axis=0).tolist(), strict=True)),
        },
        "intervals": bootstrap_intervals(
            labels, probabilities, patients, findings, resampling, ranks
        ),
    }


def official_scores(
    labels: np.ndarray,
    probabilities: np.ndarray,
    findings: Sequence[str],
    ranks: np.ndarray | None = None,
) -> dict[str, Any]:
    """Compute the challenge's scores under its own keys, and a key for each other metric.

    Args:
        labels: (N, F), 0, 1 or NaN; a row per scan.
        probabilities: (N, F).
        findings: F names.
        ranks: (N, F), what metrics of the order of scans use; None: `probabilities`.
    """
    ranks = probabilities if ranks is None else ranks
    by_metric = {}
    for name in metric_names():
        values = ranks if METRICS[name].rank_based else probabilities
        by_metric[name] = {
            finding: score_finding(name, labels[:, column], values[:, column])
            for column, finding in enumerate(findings)
        }
    means = {name: _mean(by_finding.values()) for name, by_finding in by_metric.items()}
    others = [name for name in by_metric if name not in CHALLENGE_METRICS]
    return {
        "classification": {
            "macro": {name: means[name] for name in CHALLENGE_METRICS},
            "per_pathology": {
                finding: {name: by_metric[name][finding] for name in CHALLENGE_METRICS}
                for finding in findings
            },
        },
        "crg": crg(labels, probabilities >= CHALLENGE_THRESHOLD),
        **{name: {"macro": means[name], "per_pathology": by_metric[name]} for name in others},
    }


def macro_score(scores: dict[str, Any], name: str) -> float | None:
    """Return a metric's mean over the findings, or CRG, from the content of evaluate.json."""
    if name in CHALLENGE_METRICS:
        value: float | None = scores["classification"]["macro"][name]
    else:
        value = scores[name]["CRG" if name == "crg" else "macro"]
    return value


def finding_score(scores: dict[str, Any], finding: str, name: str) -> float | None:
    """Return a finding's score from the content of evaluate.json."""
    if name in CHALLENGE_METRICS:
        value: float | None = scores["classification"]["per_pathology"][finding][name]
    else:
        value = scores[name]["per_pathology"][finding]
    return value


def macro_intervals(scores: dict[str, Any]) -> dict[str, Any]:
    """Return the intervals of all macro scores and of CRG, from the content of evaluate.json."""
    return {**scores["intervals"]["macro"], "crg": scores["intervals"]["crg"]["CRG"]}


def summary(scores: dict[str, Any]) -> dict[str, float | None]:
    """Return the six numbers of `metrics/scores.json`, with names that fit `dvc exp show`.

    `auroc_low` is the lower end of the interval of macro AUROC.
    """
    interval = scores["intervals"]["macro"]["auroc"]
    return {
        "auroc": macro_score(scores, "auroc"),
        "auroc_low": interval["low"] if interval else None,
        "ap": macro_score(scores, "average_precision"),
        "f1": macro_score(scores, "f1"),
        "acc": macro_score(scores, "accuracy"),
        "crg": macro_score(scores, "crg"),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
