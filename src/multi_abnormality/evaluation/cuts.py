"""Where to cut calibrated probabilities, for a score that cuts at 0.5.

The challenge calls a finding positive at a probability of 0.5 or more. On calibrated probabilities
that is best for accuracy alone; other scores are best at other cuts, so the probabilities are
moved, each finding's by one step on the scale of logits. The order of scans stays.
"""

import numpy as np

LEAST = 1e-3  # a cut is at least so far from 0 and from 1


def best_cuts(probabilities: np.ndarray, objective: str) -> np.ndarray:
    """(F,) cuts of calibrated probabilities (N, F), by what they themselves expect.

    Expected counts vary less than those of a few validation labels.
    - crg: pools all cells, and weighs a positive as (X - A) / A negatives, so that every finding is
      best cut at the share of positive cells.
    - f1: each finding where its expected F1 is highest.
    - accuracy, none: at 0.5.
    """
    findings = probabilities.shape[1]
    if objective == "crg":
        cuts = np.full(findings, probabilities.mean())
    elif objective == "f1":
        cuts = np.array([_best_for_f1(column) for column in probabilities.T])
    else:
        cuts = np.full(findings, 0.5)
    return cuts.clip(LEAST, 1 - LEAST)


def _best_for_f1(probabilities: np.ndarray) -> float:
    ranked = np.sort(probabilities)[::-1]
    called = np.arange(1, len(ranked) + 1)
    expected = 2 * np.cumsum(ranked) / (called + ranked.sum())
    last = int(expected.argmax())
    below = ranked[last + 1] if last + 1 < len(ranked) else 0.0
    return float((ranked[last] + below) / 2)
