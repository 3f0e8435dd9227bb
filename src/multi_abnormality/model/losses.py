"""Losses over (N, F) logits and labels: float32, mean over all cells."""

import torch
from torch import Tensor
from torch.nn import functional

from multi_abnormality.params import Train

TINY = 1e-30  # a power below 1 has no finite slope at 0


def multilabel_loss(
    logits: Tensor, labels: Tensor, settings: Train, positive_weight: Tensor | None = None
) -> Tensor:
    """The loss that train.loss names, with its settings.

    Args:
        logits: (N, F).
        labels: (N, F), 0 or 1.
        settings: loss, label_smoothing, and what the loss itself needs.
        positive_weight: (F,), how much a positive counts for each finding; None: as a negative.
    """
    labels = labels.float() * (1 - settings.label_smoothing) + settings.label_smoothing / 2
    if settings.loss == "bce":
        return asymmetric_loss(logits, labels, 0, 0, 0, positive_weight)
    if settings.loss == "focal":
        gamma = settings.focal_gamma
        return asymmetric_loss(logits, labels, gamma, gamma, 0, positive_weight)
    return asymmetric_loss(
        logits,
        labels,
        settings.gamma_negative,
        settings.gamma_positive,
        settings.clip,
        positive_weight,
    )


def asymmetric_loss(
    logits: Tensor,
    labels: Tensor,
    gamma_negative: float,
    gamma_positive: float,
    clip: float,
    positive_weight: Tensor | None = None,
) -> Tensor:
    """Asymmetric loss (Ridnik et al. 2021, arXiv:2009.14119), as a mean.

    Negatives that are already easy weigh less, by the power gamma_negative, and those with a
    probability below `clip` nothing. With both gammas and clip 0 it is binary cross-entropy, with
    equal gammas and clip 0 the focal loss (Lin et al. 2017, arXiv:1708.02002) without its alpha.
    """
    logits, labels = logits.float(), labels.float()
    shifted = (torch.sigmoid(logits) - clip).clamp(min=TINY)
    missing = torch.sigmoid(-logits).clamp(min=TINY)
    # logsigmoid keeps its gradient where a probability rounds to 0 or 1.
    log_negative = torch.log1p(-shifted) if clip else functional.logsigmoid(-logits)
    positive = functional.logsigmoid(logits) * missing**gamma_positive
    negative = log_negative * shifted**gamma_negative
    if positive_weight is not None:
        positive = positive * positive_weight
    return -(labels * positive + (1 - labels) * negative).mean()


def positive_weights(labels: Tensor, limit: float) -> Tensor:
    """(F,) negatives for each positive among labels (N, F), from 1 / limit to limit.

    With them a finding's positives and negatives count alike, as far as the limit lets them: a
    finding that a few patients have would else be learned from those few alone.
    """
    positives = labels.float().sum(dim=0)
    return ((len(labels) - positives) / positives.clamp(min=1)).clamp(1 / limit, limit)
