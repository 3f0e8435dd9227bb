"""What a validation is scored by."""

import torch
from torch import Tensor
from torchmetrics.functional.classification import multilabel_auroc

from multi_abnormality.errors import InputError


def mean_by_scan(logits: Tensor, labels: Tensor, scan: Tensor) -> tuple[Tensor, Tensor]:
    """Mean logits over the reconstructions of each scan, and the labels that they share.

    Args:
        logits: (V, F).
        labels: (V, F).
        scan: (V,) int64, from 0 to S - 1.

    Returns:
        (S, F) and (S, F).
    """
    count = torch.bincount(scan)[:, None]
    empty = logits.new_zeros(len(count), logits.shape[1])
    mean_logits, mean_labels = (empty.index_add(0, scan, part) / count for part in (logits, labels))
    return mean_logits, mean_labels


def findings_of_both_classes(labels: Tensor) -> Tensor:
    """Which findings have a positive and a negative: (F,) bool of labels (S, F).

    Raises:
        InputError: none has.
    """
    positives = labels.sum(dim=0)
    usable = (positives > 0) & (positives < len(labels))
    if not usable.any():
        raise InputError(
            "no finding has a positive and a negative among the validation scans; use more "
            "patients or raise train.validation_fraction"
        )
    return usable


def macro_auroc(logits: Tensor, labels: Tensor) -> float:
    """Mean AUROC over the findings that have both classes.

    Raises:
        InputError: none has.
    """
    usable = findings_of_both_classes(labels)
    logits, labels = logits[:, usable].double(), labels[:, usable].int()
    if logits.shape[1] == 1:  # torchmetrics takes two labels or more
        logits, labels = logits.repeat(1, 2), labels.repeat(1, 2)
    return multilabel_auroc(logits.sigmoid(), labels, num_labels=logits.shape[1]).item()
