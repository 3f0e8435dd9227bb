"""The challenge's scores: what `metrics/evaluate.json` and `metrics/scores.json` hold.

A finding counts as seen where its probability is at least 0.5, exactly. Precision, recall, F1,
accuracy and AUROC are scikit-learn's, per finding, and macro is their plain mean. CRG is pooled
over all label cells (https://arxiv.org/abs/2505.17167).
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

from multi_abnormality.evaluation.calibration import calibration_scores
from multi_abnormality.evaluation.checks import (
    check_labels,
    check_probabilities,
    row_of_patient,
)
from multi_abnormality.evaluation.intervals import intervals
from multi_abnormality.evaluation.thresholds import CHALLENGE_THRESHOLD


class Classification(TypedDict):
    """By measure, and by finding and measure; None where one is undefined."""

    macro: dict[str, float | None]
    per_pathology: dict[str, dict[str, float | None]]


class AveragePrecision(TypedDict):
    macro: float | None
    per_pathology: dict[str, float | None]


class OfficialScores(TypedDict):
    classification: Classification
    crg: dict[str, float | None]
    average_precision: AveragePrecision


def evaluate(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    findings: Sequence[str],
    *,
    resamples: int,
    confidence: float,
    seed: int,
    uncalibrated: np.ndarray | None = None,
    calibrated: np.ndarray | None = None,
) -> dict[str, Any]:
    """Score predictions; the result holds plain numbers, and None where one is undefined.

    Args:
        labels: (N, F), 0 or 1; a row a scan.
        probabilities: (N, F), in 0 to 1; a finding is positive from 0.5 on.
        patients: N ids; a patient's scans are resampled together.
        findings: F names.
        uncalibrated: (N, F) probabilities before calibration, to report its effect.
        calibrated: (N, F) after it, where `probabilities` are those of a submission.

    Raises:
        InputError: names the first row and finding with a label or probability that is none.
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
        "intervals": intervals(
            labels,
            probabilities,
            patients,
            findings,
            resamples=resamples,
            confidence=confidence,
            seed=seed,
        ),
    }


def official_scores(
    labels: np.ndarray, probabilities: np.ndarray, findings: Sequence[str]
) -> OfficialScores:
    """The challenge's numbers under its own keys, and average precision.

    Args:
        labels: (N, F), 0 or 1; a row a scan.
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
    """Scores of one finding, from its labels (N,) and probabilities (N,)."""
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
    """CRG over all label cells, with the terms that it is made of.

    X cells, A of them positive. A hit earns r, a miss costs r, a false alarm costs 1, and
    r = (X - A) / 2A balances both kinds. U = A r is the most that can be earned, and
    CRG = U / (2 U - score_s), which is 1 / (3 - 2 J) with J = TPR - FPR: 1 at best,
    1/3 where all cells or none are called positive. Without positives it is undefined.
    """
    truth = labels.astype(bool)
    hits, misses = int((truth & predicted).sum()), int((truth & ~predicted).sum())
    alarms = int((~truth & predicted).sum())
    cells, positives = int(truth.size), int(truth.sum())
    counts = {"TP": hits, "FN": misses, "FP": alarms, "X": cells, "A": positives}
    if positives == 0:
        return {**counts, "r": None, "U": (cells - positives) / 2, "score_s": None, "CRG": None}
    weight, best = (cells - positives) / (2 * positives), (cells - positives) / 2
    score = weight * hits - weight * misses - alarms
    value = best / (2 * best - score) if best else 0.0  # 0 by the evaluator's convention
    return {**counts, "r": weight, "U": best, "score_s": score, "CRG": value}


def headline(scores: dict[str, Any]) -> dict[str, float | None]:
    """The six numbers of `metrics/scores.json`, named shortly to fit `dvc exp show`.

    `auroc_low` is the lower end of macro AUROC's interval.
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
