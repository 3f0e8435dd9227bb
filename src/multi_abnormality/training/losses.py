"""Losses over (N, F) logits and labels, in float32, averaged over all labels that are not missing.

A loss is a function registered in LOSSES under its name in `train.loss`.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from multi_abnormality.config.schema import Train
from multi_abnormality.data.catalog.label_checks import is_labeled

TINY = 1e-30  # lower bound, since a power below 1 has no finite derivative at 0

# Maps logits (N, F), labels (N, F) in [0, 1], weights of the positives (F,) or None, and the
# section `train` of the parameters to the losses (N, F).
Loss = Callable[[Tensor, Tensor, Tensor | None, Train], Tensor]


def multilabel_loss(
    logits: Tensor,
    labels: Tensor,
    settings: Train,
    positive_weight: Tensor | None = None,
    labeled_share: float | None = None,
) -> Tensor:
    """Compute the mean of the loss that train.loss selects; 0 if all labels are missing.

    The mean is that over the labels that are not missing, as in PyTorch's cross-entropy with
    `ignore_index`. In training it is their sum divided by the number that a batch has on average:
    then every label has the same weight, in whatever batch and on whatever device it is. Masks and
    factors instead of indexing: no step waits for the device, and without missing labels the result
    is the plain mean, to the last bit.

    Args:
        logits: (N, F).
        labels: (N, F), 0, 1 or NaN for a missing one.
        settings: section `train` of the parameters.
        positive_weight: (F,) weights of the positives; None for 1.
        labeled_share: share of the training labels that are not missing; None for that of `labels`.
    """
    labeled = is_labeled(labels)
    labels = labels.float() * (1 - settings.label_smoothing) + settings.label_smoothing / 2
    labels = torch.where(labeled, labels, 0)  # not NaN, whose gradient would be NaN, too
    losses = LOSSES[settings.loss](logits, labels, positive_weight, settings)
    mean = torch.where(labeled, losses, 0).mean()
    if labeled_share is not None:
        return mean / labeled_share
    return mean * (labeled.numel() / labeled.sum().clamp(min=1))


def asymmetric_loss(
    logits: Tensor,
    labels: Tensor,
    gamma_neg: float,
    gamma_pos: float,
    clip: float,
    positive_weight: Tensor | None = None,
) -> Tensor:
    """Asymmetric loss (Ridnik et al. 2021, arXiv:2009.14119) of each element.

    Easy negatives are down-weighted with the exponent gamma_neg, and negatives with a probability
    below `clip` are ignored. With both gammas and clip 0 it is binary cross-entropy, with equal
    gammas and clip 0 the focal loss (Lin et al. 2017, arXiv:1708.02002) without alpha.
    """
    logits, labels = logits.float(), labels.float()
    shifted = (torch.sigmoid(logits) - clip).clamp(min=TINY)
    missing = torch.sigmoid(-logits).clamp(min=TINY)
    # logsigmoid has a gradient even where a probability rounds to 0 or 1.
    log_negative = torch.log1p(-shifted) if clip else functional.logsigmoid(-logits)
    positive = functional.logsigmoid(logits) * missing**gamma_pos
    negative = log_negative * shifted**gamma_neg
    if positive_weight is not None:
        positive = positive * positive_weight
    return -(labels * positive + (1 - labels) * negative)


def _asl(logits: Tensor, labels: Tensor, weight: Tensor | None, settings: Train) -> Tensor:
    gammas = settings.asl_gamma_neg, settings.asl_gamma_pos
    return asymmetric_loss(logits, labels, *gammas, settings.asl_clip, weight)


def _bce(logits: Tensor, labels: Tensor, weight: Tensor | None, settings: Train) -> Tensor:  # noqa: ARG001
    return asymmetric_loss(logits, labels, 0, 0, 0, weight)


def _focal(logits: Tensor, labels: Tensor, weight: Tensor | None, settings: Train) -> Tensor:
    gammas = settings.focal_gamma, settings.focal_gamma
    return asymmetric_loss(logits, labels, *gammas, 0, weight)


# By the name in `train.loss`, which config/schema.py (class Train) lists as well.
LOSSES: dict[str, Loss] = {"asl": _asl, "bce": _bce, "focal": _focal}


def positive_weights(labels: Tensor, limit: float, frequencies: Tensor | None = None) -> Tensor:
    """Return the (F,) ratios of negatives to positives in labels (N, F), in [1 / limit, limit].

    They balance a finding's positives and negatives, up to the limit: without it, a rare finding
    would be learned from a few patients alone. Samples count as often as they are drawn, missing
    labels, NaN, as neither.

    Args:
        limit: `train.max_pos_weight`.
        frequencies: (N,) how often each sample is drawn, relative to the mean; None for equally.
    """
    drawn = torch.ones(len(labels)) if frequencies is None else frequencies.float()
    positives = (labels.float() * drawn[:, None]).nansum(dim=0)
    negatives = (is_labeled(labels) * drawn[:, None]).sum(dim=0) - positives
    return (negatives / positives.clamp(min=1)).clamp(1 / limit, limit)
