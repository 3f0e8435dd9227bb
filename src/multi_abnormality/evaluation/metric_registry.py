"""Metrics of a finding: METRICS defines each once, for scores, intervals, report and `compare`.

A finding is predicted positive from a probability of 0.5 on, as in the challenge. The values are
scikit-learn's. CRG is pooled over all label cells (https://arxiv.org/abs/2505.17167).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from multi_abnormality.data.catalog.label_checks import labeled_cells
from multi_abnormality.evaluation.resampled_counts import ResampledCounts, ratio
from multi_abnormality.evaluation.threshold_selection import CHALLENGE_THRESHOLD

# The challenge's metrics, in its evaluator's order: `classification` in metrics/evaluate.json.
# Each other metric has a key of its own there.
CHALLENGE_METRICS = ("precision", "recall", "f1", "accuracy", "auroc")


@dataclass(frozen=True)
class Metric:
    """A metric; `compare` takes the higher score for the better one.

    Attributes:
        title: title in tables.
        score: maps labels (N,) and probabilities (N,) of a finding to its score; None where it is
            undefined, and then left out of the mean over findings. N is not 0, and no label is
            missing: `score_finding` leaves those out.
        resampled: the same for all resamples at once, (R, F) and NaN where undefined. Without it
            `score` is called for every resample and finding, which takes minutes.
        rank_based: whether it depends on the order of scans alone; `compare` then swaps ranks.
        needs_positives: whether the report shows a dash for a finding without positives; the
            challenge counts it as 0.
        column: title in the report's table; None for `title`.
        headline: title and meaning at the top of the report; None if it is not there.
        meaning: tooltip of the column's title.
    """

    title: str
    score: Callable[[np.ndarray, np.ndarray], float | None]
    resampled: Callable[[ResampledCounts], np.ndarray] | None = None
    rank_based: bool = False
    needs_positives: bool = False
    column: str | None = None
    headline: tuple[str, str] | None = None
    meaning: str = ""


def score_finding(name: str, labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Compute a metric of a finding on the scans that have a label of it; None without any.

    Args:
        name: key of METRICS.
        labels: (N,), 0, 1 or NaN for a missing one.
        probabilities: (N,).
    """
    known, scores = labeled_cells(labels, probabilities)
    return METRICS[name].score(known, scores) if len(known) else None


def auroc(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Compute AUROC; None without positives or without negatives."""
    both = 0 < labels.sum() < len(labels)
    return float(roc_auc_score(labels, probabilities)) if both else None


def average_precision(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Compute average precision; None without positives."""
    return float(average_precision_score(labels, probabilities)) if labels.any() else None


def at_threshold(
    function: Callable[..., float], **options: float
) -> Callable[[np.ndarray, np.ndarray], float]:
    """Make a metric of predictions, such as f1_score, one of probabilities."""

    def score(labels: np.ndarray, probabilities: np.ndarray) -> float:
        return float(function(labels, probabilities >= CHALLENGE_THRESHOLD, **options))

    return score


def crg(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float | None]:
    """Compute CRG over all labels that are not missing, with its terms under the evaluator's names.

    A true positive scores r, a false negative -r and a false positive -1, where r = (X - A) / 2A
    balances the A positive ones of X cells. U = A r is the highest score, and
    CRG = U / (2 U - score_s), which is 1 / (3 - 2 J) with J = TPR - FPR: 1 at best,
    1/3 if all cells or none are predicted positive. Without positives it is undefined.
    """
    known, predicted = labeled_cells(labels, predicted)
    y_true = known.astype(bool)
    tp, fn = int((y_true & predicted).sum()), int((y_true & ~predicted).sum())
    fp = int((~y_true & predicted).sum())
    positives = int(y_true.sum())
    counts = {"TP": tp, "FN": fn, "FP": fp, "X": y_true.size, "A": positives}
    best = (y_true.size - positives) / 2
    if positives == 0:
        return {**counts, "r": None, "U": best, "score_s": None, "CRG": None}
    weight = (y_true.size - positives) / (2 * positives)
    score = weight * tp - weight * fn - fp
    value = best / (2 * best - score) if best else 0.0  # 0 by the evaluator's convention
    return {**counts, "r": weight, "U": best, "score_s": score, "CRG": value}


METRICS = {  # in the order of tables
    "auroc": Metric(
        "AUROC",
        auroc,
        lambda counts: counts.auroc,
        rank_based=True,
        headline=("Macro AUROC", "ranks a scan with a finding above one without"),
    ),
    "average_precision": Metric(
        "Average precision",
        average_precision,
        lambda counts: counts.average_precision,
        rank_based=True,
        column="AP",
        headline=("Average precision", "area under precision-recall"),
        meaning="average precision, the area under the precision-recall curve",
    ),
    "f1": Metric(
        "F1",
        at_threshold(f1_score, zero_division=0),
        lambda counts: ratio(2 * counts.tp, counts.tp + counts.fp + counts.positives),
        needs_positives=True,
        headline=("Macro F1", "at each finding's threshold"),
        meaning="harmonic mean of precision and recall, at the threshold",
    ),
    "precision": Metric(
        "Precision",
        at_threshold(precision_score, zero_division=0),
        lambda counts: ratio(counts.tp, counts.tp + counts.fp),
        needs_positives=True,
        meaning="PPV: fraction of the scans called positive that have the finding",
    ),
    "recall": Metric(
        "Recall",
        at_threshold(recall_score, zero_division=0),
        lambda counts: ratio(counts.tp, counts.positives),
        needs_positives=True,
        meaning="sensitivity: fraction of the scans with the finding that are called positive",
    ),
    "accuracy": Metric(
        "Accuracy",
        at_threshold(accuracy_score),
        lambda counts: ratio(
            counts.tp + counts.negatives - counts.fp, counts.positives + counts.negatives
        ),
        headline=("Accuracy", "at each finding's threshold"),
        meaning="fraction of the scans called right, at the threshold",
    ),
}

CRG_HEADLINE = ("CRG", "1 at best, 0.333 for all or nothing")


def metric_names() -> list[str]:
    """Return the names of all metrics in the order of files: the challenge's first."""
    return [*CHALLENGE_METRICS, *(name for name in METRICS if name not in CHALLENGE_METRICS)]
