"""The challenge's scores, for `metrics/evaluate.json` and `metrics/scores.json`.

A finding is positive if its probability is at least 0.5. Precision, recall, F1, accuracy and AUROC
are scikit-learn's, per finding; macro is their unweighted mean. CRG is pooled over all label cells
(https://arxiv.org/abs/2505.17167).
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from multi_abnormality.evaluation.bootstrap import bootstrap_intervals
from multi_abnormality.evaluation.calibration import calibration_scores
from multi_abnormality.evaluation.input_checks import (
    check_labels,
    check_probabilities,
    row_of_patient,
)
from multi_abnormality.evaluation.thresholds import CHALLENGE_THRESHOLD


class Classification(TypedDict):
    """Scores by measure, and by finding and measure; None where undefined."""

    macro: dict[str, float | None]
    per_pathology: dict[str, dict[str, float | None]]


class AveragePrecision(TypedDict):
    """Average precision, and by finding; None where undefined."""

    macro: float | None
    per_pathology: dict[str, float | None]


class OfficialScores(TypedDict):
    """Scores of the challenge, and average precision."""

    classification: Classification
    crg: dict[str, float | None]
    average_precision: AveragePrecision


def evaluate(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    findings: Sequence[str],
    *,
    n_bootstrap: int,
    confidence: float,
    seed: int,
    uncalibrated: np.ndarray | None = None,
    calibrated: np.ndarray | None = None,
) -> dict[str, Any]:
    """Score predictions.

    Args:
        labels: (N, F), 0 or 1; a row per scan.
        probabilities: (N, F), from 0 to 1; a finding is positive from 0.5 on.
        patients: N ids; a patient's scans are resampled together.
        findings: F names.
        n_bootstrap: number of resamples behind every interval.
        confidence: level of the intervals, such as 0.95.
        seed: seed of the resamples.
        uncalibrated: (N, F) probabilities before calibration, to report its effect.
        calibrated: (N, F) probabilities after it; None: they are `probabilities`.

    Returns:
        Plain numbers by measure, and None where one is undefined.

    Raises:
        InputError: names the first row and finding with an invalid label or probability.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    describe = row_of_patient(patients)
    check_labels(labels, findings, describe)
    check_probabilities(probabilities, labels, findings, describe)
    labels = labels.astype(np.int64)
    after = probabilities if calibrated is None else calibrated
    calibration = {"after": calibration_scores(labels, after, findings)}
    if uncalibrated is not None:
        calibration["before"] = calibration_scores(labels, uncalibrated, findings)
    return {
        **official_scores(labels, probabilities, findings),
        "calibration": calibration,
        "counts": _counts(labels, patients, findings),
        "intervals": bootstrap_intervals(
            labels,
            probabilities,
            patients,
            findings,
            n_bootstrap=n_bootstrap,
            confidence=confidence,
            seed=seed,
        ),
    }


def official_scores(
    labels: np.ndarray, probabilities: np.ndarray, findings: Sequence[str]
) -> OfficialScores:
    """Compute the challenge's scores under its own keys, and average precision.

    Args:
        labels: (N, F), 0 or 1; a row per scan.
        probabilities: (N, F).
        findings: F names.
    """
    per_finding = {
        finding: finding_scores(labels[:, column], probabilities[:, column])
        for column, finding in enumerate(findings)
    }
    precision = {
        finding: scores.pop("average_precision") for finding, scores in per_finding.items()
    }
    return {
        "classification": {"macro": _macro(per_finding), "per_pathology": per_finding},
        "crg": crg(labels, probabilities >= CHALLENGE_THRESHOLD),
        "average_precision": {"macro": _mean(precision.values()), "per_pathology": precision},
    }


def finding_scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    """Score one finding, from its labels (N,) and probabilities (N,)."""
    predicted = probabilities >= CHALLENGE_THRESHOLD
    positives = int(labels.sum())
    ranked = 0 < positives < len(labels)
    return {
        "precision": float(precision_score(labels, predicted, zero_division=0)),
        "recall": float(recall_score(labels, predicted, zero_division=0)),
        "f1": float(f1_score(labels, predicted, zero_division=0)),
        "accuracy": float(accuracy_score(labels, predicted)),
        "auroc": float(roc_auc_score(labels, probabilities)) if ranked else None,
        "average_precision": (
            float(average_precision_score(labels, probabilities)) if positives else None
        ),
    }


def crg(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float | None]:
    """Compute CRG over all label cells, with its terms.

    Of X cells, A are positive. A true positive scores r, a false negative -r and a false positive
    -1, where r = (X - A) / 2A balances both classes. U = A r is the highest score, and
    CRG = U / (2 U - score_s), which is 1 / (3 - 2 J) with J = TPR - FPR: 1 at best,
    1/3 if all cells or none are predicted positive. Without positives it is undefined.
    """
    y_true = labels.astype(bool)
    tp, fn = int((y_true & predicted).sum()), int((y_true & ~predicted).sum())
    fp = int((~y_true & predicted).sum())
    cells, positives = int(y_true.size), int(y_true.sum())
    counts = {"TP": tp, "FN": fn, "FP": fp, "X": cells, "A": positives}
    if positives == 0:
        return {**counts, "r": None, "U": (cells - positives) / 2, "score_s": None, "CRG": None}
    weight, best = (cells - positives) / (2 * positives), (cells - positives) / 2
    score = weight * tp - weight * fn - fp
    value = best / (2 * best - score) if best else 0.0  # 0 by the evaluator's convention
    return {**counts, "r": weight, "U": best, "score_s": score, "CRG": value}


def summary(scores: dict[str, Any]) -> dict[str, float | None]:
    """Return the six numbers of `metrics/scores.json`, with names that fit `dvc exp show`.

    `auroc_low` is the lower end of the interval of macro AUROC.
    """
    macro = scores["classification"]["macro"]
    interval = scores["intervals"]["macro"]["auroc"]
    return {
        "auroc": macro["auroc"],
        "auroc_low": interval["low"] if interval else None,
        "ap": scores["average_precision"]["macro"],
        "f1": macro["f1"],
        "acc": macro["accuracy"],
        "crg": scores["crg"]["CRG"],
    }


def _macro(per_finding: dict[str, dict[str, float | None]]) -> dict[str, float | None]:
    measures = ("precision", "recall", "f1", "accuracy", "auroc")
    return {
        measure: _mean(scores[measure] for scores in per_finding.values()) for measure in measures
    }


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _counts(labels: np.ndarray, patients: Sequence[str], findings: Sequence[str]) -> dict[str, Any]:
    positives = labels.sum(axis=0).tolist()
    return {
        "scans": len(labels),
        "patients": len(set(patients)),
        "positives": dict(zip(findings, positives, strict=True)),
    }
