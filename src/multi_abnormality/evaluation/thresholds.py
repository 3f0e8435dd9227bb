"""Decision thresholds on calibrated probabilities, and the challenge's probabilities.

The challenge calls a finding positive at a probability of 0.5 or more. On calibrated probabilities
that is the best threshold for accuracy alone, so each finding has a threshold of its own. What is
submitted to the challenge is shifted on the logit scale so that this threshold comes to lie at 0.5.
Needs no PyTorch.
"""

import numpy as np

CHALLENGE_THRESHOLD = 0.5  # the challenge calls a finding positive from here on
MIN_THRESHOLD = 1e-3  # distance that a threshold keeps from 0 and from 1
_BELOW = np.nextafter(CHALLENGE_THRESHOLD, 0)


def best_thresholds(probabilities: np.ndarray, metric: str) -> np.ndarray:
    """Choose the threshold of each finding that maximizes the expected value of a metric.

    The probabilities themselves give the expected counts, which vary less than those of a few
    validation labels.

    Args:
        probabilities: (N, F), calibrated, of the validation scans.
        metric: as evaluate.threshold_metric:

            - crg pools all cells and weighs a positive as (X - A) / A negatives, so every finding
              has its best threshold at the share of positive cells;
            - f1: where the finding's expected F1 is highest;
            - accuracy and none: 0.5.

    Returns:
        (F,) thresholds.
    """
    findings = probabilities.shape[1]
    if metric == "crg":
        thresholds = np.full(findings, probabilities.mean())
    elif metric == "f1":
        thresholds = np.array([_best_for_f1(column) for column in probabilities.T])
    else:
        thresholds = np.full(findings, 0.5)
    return thresholds.clip(MIN_THRESHOLD, 1 - MIN_THRESHOLD)


def _best_for_f1(probabilities: np.ndarray) -> float:
    ranked = np.sort(probabilities)[::-1]
    called = np.arange(1, len(ranked) + 1)
    expected = 2 * np.cumsum(ranked) / (called + ranked.sum())
    last = int(expected.argmax())
    below = ranked[last + 1] if last + 1 < len(ranked) else 0.0
    return float((ranked[last] + below) / 2)


def submission_probabilities(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Shift probabilities on the logit scale so that each threshold comes to lie at 0.5.

    The order of scans stays, and a result is at least 0.5 exactly where the probability is at
    least its threshold.

    Args:
        probabilities: (N, F), calibrated.
        thresholds: (F,), above 0 and below 1.

    Returns:
        (N, F) float64.
    """
    chances = np.asarray(probabilities, dtype=np.float64)
    odds_for, odds_against = chances * (1 - thresholds), (1 - chances) * thresholds
    shifted = odds_for / (odds_for + odds_against)
    positive = chances >= thresholds
    # Rounding could put a probability on the other side of 0.5 than of its threshold.
    exact: np.ndarray = np.where(
        positive, shifted.clip(CHALLENGE_THRESHOLD, None), shifted.clip(None, _BELOW)
    )
    return exact
