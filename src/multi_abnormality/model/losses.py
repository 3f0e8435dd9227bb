"""Losses over (N, F) logits and labels: float32, mean over all cells."""

import torch
from torch import Tensor
from torch.nn import functional


def asymmetric_loss(
    logits: Tensor,
    labels: Tensor,
    gamma_negative: float = 4.0,
    gamma_positive: float = 0.0,
    clip: float = 0.05,
) -> Tensor:
    """Asymmetric loss (Ridnik et al. 2021, arXiv:2009.14119), as a mean.

    Negatives that are already easy weigh less, by the power gamma_negative, and those with a
    probability below `clip` nothing. With both gammas and clip 0 it is binary cross-entropy.
    """
    logits, labels = logits.float(), labels.float()
    probability = torch.sigmoid(logits)
    shifted = (probability - clip).clamp(min=0)
    # logsigmoid keeps its gradient where a probability rounds to 0 or 1.
    log_negative = torch.log1p(-shifted) if clip else functional.logsigmoid(-logits)
    positive = functional.logsigmoid(logits) * (1 - probability) ** gamma_positive
    negative = log_negative * shifted**gamma_negative
    return -(labels * positive + (1 - labels) * negative).mean()
