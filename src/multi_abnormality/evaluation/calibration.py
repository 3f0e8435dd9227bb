"""Platt scaling and decision thresholds, one slope, intercept and threshold per finding.

    p = 1 / (1 + exp(-(slope * logit + intercept)))

The slope is positive, so the order of scans, and with it AUROC, does not change. Fitted on
validation patients only (J. Platt, "Probabilistic outputs for support vector machines", 1999).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from multi_abnormality.data.catalog.label_checks import is_labeled, labeled_cells
from multi_abnormality.evaluation.curves import reliability_bins
from multi_abnormality.evaluation.threshold_selection import optimal_thresholds
from multi_abnormality.utils.atomic_io import write_json

MIN_SLOPE = 0.05  # with 0, all scans of a finding that the model cannot detect would tie
PRIOR_WEIGHT = 1.0  # pull of the slope to 1: that of about one scan at the decision's edge
MAX_LOGIT = 36.0  # beyond it a float64 probability is 1 exactly
STEPS = 50  # limit of Newton's method, which takes fewer than 15
DIGITS = 12  # significant digits; the last digits of exp differ between processors


@dataclass(frozen=True)
class Calibration:
    """Slope, intercept and threshold of each finding, and class counts of the scans fitted on.

    A finding with only one class among these scans, or no label, is not calibrated: it has slope 1,
    intercept 0, threshold 0.5 and no decision.
    """

    findings: tuple[str, ...]
    slope: np.ndarray  # (F,)
    intercept: np.ndarray  # (F,)
    positives: np.ndarray  # (F,)
    negatives: np.ndarray  # (F,)
    thresholds: np.ndarray  # (F,) calibrated probability from which a scan is positive
    threshold_metric: str  # metric that the thresholds maximize

    @classmethod
    def fit(
        cls,
        logits: np.ndarray,
        labels: np.ndarray,
        findings: Sequence[str],
        threshold_metric: str = "none",
    ) -> "Calibration":
        """Fit a slope and an intercept of each finding's logits, then thresholds, on val scans.

        A finding without scans of both classes keeps its probabilities, and has a threshold of 0.5.

        Args:
            logits: (N, F) float64.
            labels: (N, F), 0, 1 or NaN for a missing one, which is left out.
            findings: F names.
            threshold_metric: value of `evaluate.threshold_metric`.
        """
        coefficients = []
        for column in range(len(findings)):
            known, of_known = labeled_cells(labels[:, column], logits[:, column])
            coefficients.append(platt(of_known, known.astype(bool)))
        slope, intercept = np.array(coefficients).T
        positives, negatives = ((labels == value).sum(axis=0) for value in (1, 0))
        exact = optimal_thresholds(
            np.where(is_labeled(labels), sigmoid(logits * slope + intercept), np.nan),
            threshold_metric,
            _has_both_classes(positives, negatives),
        )
        thresholds = np.array([float(f"{threshold:.{DIGITS}g}") for threshold in exact])
        return cls(
            tuple(findings), slope, intercept, positives, negatives, thresholds, threshold_metric
        )

    @property
    def is_fitted(self) -> np.ndarray:
        """Whether each finding had scans of both classes to be fitted on: (F,) bool."""
        return _has_both_classes(self.positives, self.negatives)

    @property
    def uncalibrated(self) -> list[str]:
        """Findings that are not fitted: their threshold is 0.5, and there is no decision."""
        fitted = zip(self.findings, self.is_fitted, strict=True)
        return [finding for finding, is_fitted in fitted if not is_fitted]

    def thresholds_by_finding(self) -> dict[str, float]:
        """Return the threshold of each finding, by its name."""
        return dict(zip(self.findings, self.thresholds.tolist(), strict=True))

    def calibrate(self, logits: np.ndarray) -> np.ndarray:
        """Convert logits (N, F) to calibrated probabilities: float64, above 0 and below 1."""
        return sigmoid(np.asarray(logits, dtype=np.float64) * self.slope + self.intercept)

    def to_json(self, path: Path) -> None:
        """Write the calibration as JSON, one entry per finding."""
        table = {
            "slope": self.slope,
            "intercept": self.intercept,
            "threshold": self.thresholds,
            "positives": self.positives,
            "negatives": self.negatives,
            "fitted": self.is_fitted,
        }
        by_finding = pd.DataFrame(table, index=self.findings).to_dict("index")
        write_json({"findings": by_finding, "threshold_metric": self.threshold_metric}, path)

    @classmethod
    def from_json(cls, content: dict[str, Any], findings: Sequence[str]) -> "Calibration":
        """Create a calibration from the content of a file written by `to_json`.

        Raises:
            KeyError, TypeError, ValueError: the content has another format, or lacks a finding.
        """
        keys = "slope", "intercept", "positives", "negatives", "threshold"
        rows = [[float(content["findings"][finding][key]) for key in keys] for finding in findings]
        slope, intercept, positives, negatives, thresholds = np.array(rows).T
        metric = str(content["threshold_metric"])
        return cls(tuple(findings), slope, intercept, positives, negatives, thresholds, metric)


def _has_both_classes(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    both: np.ndarray = (positives > 0) & (negatives > 0)
    return both


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Compute 1 / (1 + exp(-logits)), above 0 and below 1 for any finite logit."""
    odds: np.ndarray = np.exp(-np.clip(logits, -MAX_LOGIT, MAX_LOGIT))
    return 1 / (1 + odds)


def platt(logits: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Fit slope and intercept of one finding, to logits (N,) and a boolean `positive` (N,).

    Minimizes cross-entropy against Platt's softened targets plus
    PRIOR_WEIGHT / 2 * (slope - 1)^2. Both bound the slope of a finding with few positives, or
    with separable classes.
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if positives == 0 or negatives == 0:
        return 1.0, 0.0
    targets = np.where(positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    weights = _minimize(logits, targets, np.array([1.0, np.log((positives + 1) / (negatives + 1))]))
    if weights[0] < MIN_SLOPE:  # convex: the constrained minimum then lies on the bound
        weights = _minimize(logits, targets, np.array([MIN_SLOPE, weights[1]]), free_slope=False)
    slope, intercept = (float(f"{value:.{DIGITS}g}") for value in weights)
    return slope, intercept


def _minimize(
    logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, free_slope: bool = True
) -> np.ndarray:
    """Minimize the loss over (slope, intercept) by damped Newton steps; the loss is convex.

    SciPy's minimizers stop at half of the digits, and its root finders diverge from some starts.
    """
    design = np.stack([logits, np.ones_like(logits)], axis=1)
    free = slice(0 if free_slope else 1, 2)
    prior = np.diag([PRIOR_WEIGHT, 0.0])
    value = _loss(design @ weights, targets, weights[0])
    for _ in range(STEPS):
        probs = sigmoid(design @ weights)
        gradient = design.T @ (probs - targets) + prior @ (weights - [1.0, 0.0])
        hessian = (design.T * (probs * (1 - probs))) @ design + prior
        step = np.zeros(2)
        step[free] = np.linalg.solve(hessian[free, free], gradient[free])
        # With the tolerance, steps whose gain is below the loss's rounding are accepted.
        while _loss(design @ (weights - step), targets, weights[0] - step[0]) > value + 1e-9:
            step = step / 2
        weights = weights - step
        value = _loss(design @ weights, targets, weights[0])
        if np.abs(step).max() < 1e-13:
            break
    return weights


def _loss(calibrated: np.ndarray, targets: np.ndarray, slope: float) -> float:
    cross_entropy = np.logaddexp(0, calibrated) - targets * calibrated
    return float(cross_entropy.sum() + PRIOR_WEIGHT / 2 * (slope - 1) ** 2)


def calibration_scores(
    labels: np.ndarray, probabilities: np.ndarray, findings: Sequence[str]
) -> dict[str, Any]:
    """Compute expected calibration error (ten bins of equal width) and Brier score.

    They are None for a finding without a label, and then left out of the means.

    Args:
        labels: (N, F), 0, 1 or NaN.
        probabilities: (N, F).
    """
    per_finding: dict[str, dict[str, float | None]] = {}
    for column, finding in enumerate(findings):
        y_true, probs = labeled_cells(labels[:, column], probabilities[:, column])
        if not len(y_true):
            per_finding[finding] = {"ece": None, "brier": None}
            continue
        bins = reliability_bins(y_true, probs)
        gaps = bins.scans * np.abs(bins.predicted - bins.observed)
        per_finding[finding] = {
            "ece": float(gaps.sum() / len(y_true)),
            "brier": float(np.mean((probs - y_true) ** 2)),
        }
    macro = {
        measure: _mean(scores[measure] for scores in per_finding.values())
        for measure in ("ece", "brier")
    }
    return {"macro": macro, "per_pathology": per_finding}


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
