"""Selection of decision thresholds on calibrated probabilities; the challenge's probabilities.

The challenge counts a finding as positive at a probability of 0.5 or more. On calibrated
probabilities that is the best threshold for accuracy alone, so each finding has its own threshold.
Probabilities submitted to the challenge are shifted on the logit scale, which moves this threshold
to 0.5. This module does not import PyTorch.
"""

from collections.abc import Callable, Collection, Mapping

import numpy as np

from multi_abnormality.data.catalog.label_checks import is_labeled

CHALLENGE_THRESHOLD = 0.5  # a finding is positive from this probability on
MIN_THRESHOLD = 1e-3  # smallest distance of a threshold from 0 and from 1
SENSITIVITY = "sensitivity"  # "sensitivity>=0.95": the highest threshold that reaches it
_BELOW = np.nextafter(CHALLENGE_THRESHOLD, 0)


def optimal_thresholds(
    probabilities: np.ndarray, metric: str, is_calibrated: np.ndarray
) -> np.ndarray:
    """Choose the threshold of each finding by a rule, such as the highest expected F1.

    Expected counts are sums of the probabilities. Counts of labels would vary more, since there
    are few validation scans.

    Args:
        probabilities: (N, F), calibrated, of the validation scans; NaN where the label is missing.
        metric: value of `evaluate.threshold_metric`, a key of THRESHOLD_METRICS, or such as
            "sensitivity>=0.95".
        is_calibrated: (F,) bool. The other findings have threshold 0.5, and do not
            affect those of the calibrated ones.

    Returns:
        (F,) thresholds.
    """
    thresholds = np.full(probabilities.shape[1], CHALLENGE_THRESHOLD)
    calibrated = np.compress(is_calibrated, probabilities, axis=1)
    if calibrated.size:
        name, _, target = metric.partition(">=")
        chosen = (
            _best_at_sensitivity(calibrated, float(target))
            if name == SENSITIVITY
            else THRESHOLD_METRICS[name](calibrated)
        )
        thresholds[is_calibrated] = chosen
    return thresholds.clip(MIN_THRESHOLD, 1 - MIN_THRESHOLD)


def _half(probabilities: np.ndarray) -> np.ndarray:
    return np.full(probabilities.shape[1], CHALLENGE_THRESHOLD)


def _best_for_crg(probabilities: np.ndarray) -> np.ndarray:
    """Return one threshold for all findings: the expected fraction of positives.

    CRG pools the labels of all findings, and gives positives and negatives the same total weight.
    """
    return np.full(probabilities.shape[1], probabilities[is_labeled(probabilities)].mean())


def _best_for_youden(probabilities: np.ndarray) -> np.ndarray:
    """Return the expected fraction of positives of each finding.

    A scan above it adds more to the expected sensitivity than it takes from the specificity.
    """
    return np.array([column[is_labeled(column)].mean() for column in probabilities.T])


def _best_at_sensitivity(probabilities: np.ndarray, target: float) -> np.ndarray:
    """Return the highest threshold of each finding with at least this expected sensitivity."""

    def highest(column: np.ndarray) -> float:
        ranked = np.sort(column[is_labeled(column)])[::-1]
        reached = np.cumsum(ranked) / ranked.sum()
        reached[-1] = 1  # in spite of rounding
        return float(ranked[(reached >= target).argmax()])

    return np.array([highest(column) for column in probabilities.T])


def _best_for_f1(probabilities: np.ndarray) -> np.ndarray:
    """Return the threshold with the highest expected F1 of each finding."""
    return np.array([_best_f1_of_finding(column[is_labeled(column)]) for column in probabilities.T])


def _best_f1_of_finding(probabilities: np.ndarray) -> float:
    ranked = np.sort(probabilities)[::-1]
    n_positive = np.arange(1, len(ranked) + 1)
    expected = 2 * np.cumsum(ranked) / (n_positive + ranked.sum())
    last = int(expected.argmax())
    below = ranked[last + 1] if last + 1 < len(ranked) else 0.0
    return float((ranked[last] + below) / 2)


# By the value of evaluate.threshold_metric: maps calibrated probabilities (N, F) to F thresholds.
THRESHOLD_METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "crg": _best_for_crg,
    "f1": _best_for_f1,
    "accuracy": _half,
    "youden": _best_for_youden,
    "none": _half,
}


def decide(
    probabilities: Mapping[str, float],
    thresholds: Mapping[str, float],
    uncalibrated: Collection[str],
) -> dict[str, bool | None]:
    """Decide which findings are positive.

    Args:
        probabilities: calibrated probability by finding.
        thresholds: threshold by finding.
        uncalibrated: findings without a decision, since their threshold was not fitted.

    Returns:
        Decision by finding, in the order of `probabilities`; None without a decision.
    """
    return {
        finding: None if finding in uncalibrated else value >= thresholds[finding]
        for finding, value in probabilities.items()
    }


def submission_probabilities(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Shift probabilities on the logit scale so that each threshold becomes 0.5.

    The order of scans is unchanged, and a result is at least 0.5 exactly where the probability is
    at least its threshold.

    Args:
        probabilities: (N, F), calibrated.
        thresholds: (F,), above 0 and below 1.

    Returns:
        (N, F) float64.
    """
    probs = np.asarray(probabilities, dtype=np.float64)
    odds_for, odds_against = probs * (1 - thresholds), (1 - probs) * thresholds
    shifted = odds_for / (odds_for + odds_against)
    positive = probs >= thresholds
    # Rounding could move a probability across 0.5.
    exact: np.ndarray = np.where(
        positive, shifted.clip(CHALLENGE_THRESHOLD, None), shifted.clip(None, _BELOW)
    )
    return exact
