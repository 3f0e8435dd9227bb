"""Validation metrics."""

from collections.abc import Sequence

import torch
from torch import Tensor

from multi_abnormality.data.catalog.label_checks import is_labeled, labeled_cells
from multi_abnormality.utils.errors import InputError

DECIMALS = 10  # sums of equal AUROCs in another order differ in the last of 16


def mean_by_scan(logits: Tensor, labels: Tensor, scan: Tensor) -> tuple[Tensor, Tensor]:
    """Average the logits over the reconstructions of each scan.

    Args:
        logits: (V, F), a row per volume.
        labels: (V, F), equal for the reconstructions of one scan.
        scan: (V,) int64 scan index of each volume, from 0 to S - 1.

    Returns:
        Logits (S, F) and labels (S, F), a row per scan.
    """
    count = torch.bincount(scan)[:, None]
    empty = logits.new_zeros(len(count), logits.shape[1])
    mean_logits, mean_labels = (empty.index_add(0, scan, part) / count for part in (logits, labels))
    return mean_logits, mean_labels


def findings_of_both_classes(labels: Tensor) -> Tensor:
    """Return which findings have a positive and a negative: (F,) bool of labels (S, F).

    Missing labels, NaN, are neither.

    Raises:
        InputError: no finding has both.
    """
    positives = labels.nansum(dim=0)
    usable = (positives > 0) & (positives < is_labeled(labels).sum(dim=0))
    if not usable.any():
        raise InputError(
            "no finding has a positive and a negative among the validation scans, so no epoch can "
            "be chosen and nothing calibrated; use more validation patients (raise "
            "train.val_fraction, or name more val scans in the table)"
        )
    return usable


def auroc_by_finding(logits: Tensor, labels: Tensor, findings: Sequence[str]) -> dict[str, float]:
    """AUROC of each finding that has both classes, in float64, of (S, F) logits and labels.

    Missing labels, NaN, are left out.

    Raises:
        InputError: no finding has both classes.
    """
    from sklearn.metrics import roc_auc_score  # a fifth of the imports' time: not before a step

    usable = findings_of_both_classes(labels)
    columns = zip(labels[:, usable].T.cpu().numpy(), logits[:, usable].T.cpu().numpy(), strict=True)
    names = [name for name, both in zip(findings, usable.tolist(), strict=True) if both]
    return {
        name: float(roc_auc_score(*labeled_cells(*column)))
        for name, column in zip(names, columns, strict=True)
    }


def macro_auroc(auroc: dict[str, float]) -> float:
    """Mean of the findings' AUROCs.

    Epochs whose scores are mathematically equal get equal numbers, so rounding neither chooses
    the best epoch nor stops a run.
    """
    return round(sum(auroc.values()) / len(auroc), DECIMALS)
