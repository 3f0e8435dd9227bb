"""Weights of an ensemble's members, fitted on val scans."""

import numpy as np
from scipy.optimize import minimize

from multi_abnormality.evaluation.fusion import MAX_LOGIT, equal_weights
from multi_abnormality.utils.errors import InputError

PRIOR_SD = 0.3  # of a weight from the equal ones, before any scan is seen
DIGITS = 3  # of a weight: the last digits of the minimizer differ between processors


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
