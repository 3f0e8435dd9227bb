"""Fusion of several models: the weighted mean of their calibrated logits."""

from collections.abc import Sequence

import numpy as np

# Logits beyond it count as this one: float32 probabilities, which exported models return, hold no
# more digits near 1.
MAX_LOGIT = 14.0


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
