"""Calibrated probabilities by Platt scaling, one line per finding, and a threshold for each.

    p = 1 / (1 + exp(-(slope * logit + intercept)))

The slope stays positive, so that the order of scans and with it AUROC stays. Fitted on validation
patients alone (J. Platt, "Probabilistic outputs for support vector machines", 1999).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from multi_abnormality.errors import InputError
from multi_abnormality.evaluation.checks import check_labels, check_scores
from multi_abnormality.evaluation.curves import reliability_bins
from multi_abnormality.evaluation.thresholds import best_thresholds
from multi_abnormality.files import write_json

MIN_SLOPE = 0.05  # a finding that the model cannot see must not tie all its scans
PRIOR_WEIGHT = 1.0  # pull of the slope to 1: that of about one scan at the decision's edge
MAX_LOGIT = 36.0  # beyond it a float64 probability is 1 exactly
STEPS = 50  # Newton's; it ends in under 15
DIGITS = 12  # significant; the last digits of exp differ between processors


@dataclass(frozen=True)
class Calibration:
    """Slope, intercept and threshold of each finding, and the scans that they were fitted on.

    A finding that has only one class among these scans is not calibrated: it keeps slope 1 and
    intercept 0.
    """

    findings: tuple[str, ...]
    slope: np.ndarray  # (F,)
    intercept: np.ndarray  # (F,)
    positives: np.ndarray  # (F,)
    negatives: np.ndarray  # (F,)
    thresholds: np.ndarray  # (F,) calibrated probability from which a scan counts as positive
    threshold_metric: str  # that the thresholds are best for

    @classmethod
    def fit(
        cls,
        logits: np.ndarray,
        labels: np.ndarray,
        findings: Sequence[str],
        threshold_metric: str = "none",
    ) -> "Calibration":
        """Fit on validation scans.

        Args:
            logits: (N, F).
            labels: (N, F), 0 or 1.
            findings: F names.
            threshold_metric: as evaluate.threshold_metric: what the thresholds are best for.

        Raises:
            InputError: a logit is not finite, a label is not 0 or 1, or there is no scan.
        """
        logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
        check_labels(labels, findings, _validation_row)
        check_scores(logits, labels, findings, _validation_row, "logits")
        lines = [
            platt(logits[:, column], labels[:, column].astype(bool))
            for column in range(len(findings))
        ]
        slope, intercept = np.array(lines).T
        positives = labels.sum(axis=0).astype(int)
        best = best_thresholds(sigmoid(logits * slope + intercept), threshold_metric)
        thresholds = np.array([float(f"{threshold:.{DIGITS}g}") for threshold in best])
        counts = positives, len(labels) - positives
        return cls(tuple(findings), slope, intercept, *counts, thresholds, threshold_metric)

    @property
    def is_fitted(self) -> np.ndarray:
        """(F,) whether a finding had scans of both classes to fit it on."""
        fitted: np.ndarray = (self.positives > 0) & (self.negatives > 0)
        return fitted

    def calibrate(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of logits (N, F): float64, above 0 and below 1."""
        return sigmoid(np.asarray(logits, dtype=np.float64) * self.slope + self.intercept)

    def to_json(self, path: Path) -> None:
        by_finding = {
            finding: {
                "slope": float(self.slope[column]),
                "intercept": float(self.intercept[column]),
                "threshold": float(self.thresholds[column]),
                "positives": int(self.positives[column]),
                "negatives": int(self.negatives[column]),
                "fitted": bool(self.is_fitted[column]),
            }
            for column, finding in enumerate(self.findings)
        }
        write_json({"findings": by_finding, "threshold_metric": self.threshold_metric}, path)

    @classmethod
    def from_json(cls, path: Path, findings: Sequence[str]) -> "Calibration":
        """Read what `to_json` wrote.

        Raises:
            InputError: the file is missing, is no JSON, or lacks a finding or number.
        """
        hint = "run `dvc repro evaluate` to write it again"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            by_finding, metric = content["findings"], str(content["threshold_metric"])
            columns = [
                [float(by_finding[finding][key]) for finding in findings]
                for key in ("slope", "intercept", "positives", "negatives", "threshold")
            ]
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); {hint}") from error
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: is no calibration ({error}); {hint}") from error
        except KeyError as error:
            raise InputError(f"{path}: lacks {error}; {hint}") from error
        slope, intercept, positives, negatives, thresholds = map(np.array, columns)
        return cls(tuple(findings), slope, intercept, positives, negatives, thresholds, metric)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logits)), above 0 and below 1 for any finite logit."""
    odds: np.ndarray = np.exp(-np.clip(logits, -MAX_LOGIT, MAX_LOGIT))
    return 1 / (1 + odds)


def platt(logits: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Slope and intercept for one finding, from logits (N,) and a boolean `positive` (N,).

    Cross-entropy against Platt's softened targets plus PRIOR_WEIGHT / 2 * (slope - 1)^2: both
    keep a finding with few positives, or with classes that part cleanly, from a wild slope.
    """
    hits, others = int(positive.sum()), int((~positive).sum())
    if hits == 0 or others == 0:
        return 1.0, 0.0
    targets = np.where(positive, (hits + 1) / (hits + 2), 1 / (others + 2))
    line = _minimise(logits, targets, np.array([1.0, np.log((hits + 1) / (others + 1))]))
    if line[0] < MIN_SLOPE:  # convex: the best allowed line then lies on the bound
        line = _minimise(logits, targets, np.array([MIN_SLOPE, line[1]]), free_slope=False)
    slope, intercept = (float(f"{value:.{DIGITS}g}") for value in line)
    return slope, intercept


def _minimise(
    logits: np.ndarray, targets: np.ndarray, line: np.ndarray, free_slope: bool = True
) -> np.ndarray:
    """Damped Newton on (slope, intercept); convex, so it finds the one minimum."""
    design = np.stack([logits, np.ones_like(logits)], axis=1)
    free = slice(0 if free_slope else 1, 2)
    prior = np.diag([PRIOR_WEIGHT, 0.0])
    value = _loss(design @ line, targets, line[0])
    for _ in range(STEPS):
        chances = sigmoid(design @ line)
        gradient = design.T @ (chances - targets) + prior @ (line - [1.0, 0.0])
        curvature = (design.T * (chances * (1 - chances))) @ design + prior
        step = np.zeros(2)
        step[free] = np.linalg.solve(curvature[free, free], gradient[free])
        # The tolerance lets the last steps through, whose gain is below the loss's rounding.
        while _loss(design @ (line - step), targets, line[0] - step[0]) > value + 1e-9:
            step = step / 2
        line = line - step
        value = _loss(design @ line, targets, line[0])
        if np.abs(step).max() < 1e-13:
            break
    return line


def _loss(lines: np.ndarray, targets: np.ndarray, slope: float) -> float:
    cross_entropy = np.logaddexp(0, lines) - targets * lines
    return float(cross_entropy.sum() + PRIOR_WEIGHT / 2 * (slope - 1) ** 2)


def calibration_scores(
    labels: np.ndarray, probabilities: np.ndarray, findings: Sequence[str]
) -> dict[str, Any]:
    """Expected calibration error (ten bins of equal width) and Brier score.

    Args:
        labels: (N, F).
        probabilities: (N, F).
    """
    per_finding = {}
    for column, finding in enumerate(findings):
        truth, chances = labels[:, column], probabilities[:, column]
        bins = reliability_bins(truth, chances)
        gaps = bins.scans * np.abs(bins.predicted - bins.observed)
        per_finding[finding] = {
            "ece": float(gaps.sum() / len(truth)),
            "brier": float(np.mean((chances - truth) ** 2)),
        }
    macro = {
        measure: float(np.mean([scores[measure] for scores in per_finding.values()]))
        for measure in ("ece", "brier")
    }
    return {"macro": macro, "per_pathology": per_finding}


def _validation_row(row: int) -> str:
    return f"validation scan {row}"
