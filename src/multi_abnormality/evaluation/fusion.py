"""Fusion of several models: the weighted mean of their calibrated logits."""

from collections.abc import Sequence

import numpy as np

from multi_abnormality.utils.errors import InputError

# Logits beyond it count as this one: float32 probabilities, which exported models return, hold no
# more digits near 1.
MAX_LOGIT = 14.0
PRIOR_SD = 0.3  # of a weight from the equal ones, before any scan is seen
DIGITS = 3  # of a weight: the last digits of the minimizer differ between processors


def to_logits(probabilities: np.ndarray) -> np.ndarray:
    """Return finite float64 logits, of any shape."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    with np.errstate(divide="ignore"):
        logits: np.ndarray = np.log(probabilities) - np.log1p(-probabilities)
    return logits.clip(-MAX_LOGIT, MAX_LOGIT)


def fuse(logits: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Return the weighted mean of calibrated logits.

    Args:
        logits: (M, ..., F), of M members.
        weights: M, not negative; their sum is 1.
    """
    fused: np.ndarray = np.tensordot(np.asarray(weights), logits.clip(-MAX_LOGIT, MAX_LOGIT), 1)
    return fused


def equal_weights(members: int) -> list[float]:
    """Return the weights of a plain mean."""
    return [1 / members] * members


def fit_weights(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """Fit a weight for each member: not negative, with the sum 1, each pulled to 1 / M.

    Minimizes the cross-entropy of the fused logits plus (w - 1 / M)^2 / (2 PRIOR_SD^2), over all
    findings together: val has too few scans to fit weights for each finding.

    Args:
        logits: (M, N, F), of M members on N val scans.
        labels: (N, F), 0, 1 or NaN for a missing one.

    Raises:
        InputError: no member is better than chance, so that all weights are 0.
    """
    from scipy.optimize import minimize

    known = ~np.isnan(labels)
    values, truth = logits.clip(-MAX_LOGIT, MAX_LOGIT)[:, known], labels[known]
    start = np.array(equal_weights(len(logits)))

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        fused, excess = weights @ values, weights - start
        cross_entropy = np.logaddexp(0, fused).sum() - truth @ fused
        gradient = values @ (1 / (1 + np.exp(-fused)) - truth) + excess / PRIOR_SD**2
        return float(cross_entropy + excess @ excess / (2 * PRIOR_SD**2)), gradient

    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start))
    if not found.x.sum() > 0:
        raise InputError(
            "--weights val: no member is better than chance on the val scans; use --weights mean"
        )
    weights = [round(float(weight), DIGITS) for weight in found.x / found.x.sum()]
    weights[int(np.argmax(weights))] += 1 - sum(weights)
    return weights
