"""How often an epoch draws each sample: those with a rare finding more often, if wanted."""

import math
from collections.abc import Sequence

import numpy as np

from multi_abnormality.data.catalog.missing_labels import is_labeled
from multi_abnormality.utils.errors import first_few


def sampling_frequencies(labels: np.ndarray, threshold: float) -> np.ndarray:
    """Return how often an epoch draws each sample on average, relative to the mean: (N,) float64.

    Repeat factors as those of Gupta et al. 2019 (arXiv:1908.03195): threshold / prevalence for the
    rarest positive finding of the sample that is rarer than the threshold, else 1. Theirs is the
    square root of that, which helped less (docs/explanation/class-imbalance.md). The factors are
    divided by their mean, so that an epoch keeps its length.

    Args:
        labels: (N, F), 0, 1 or NaN, which counts neither as positive nor as negative.
        threshold: `train.oversample_threshold`.
    """
    factors = np.ones(len(labels))
    for column, prevalence in zip(labels.T, _prevalences(labels), strict=True):
        if 0 < prevalence < threshold:
            factors[column == 1] = np.maximum(factors[column == 1], threshold / prevalence)
    return factors * (len(factors) / math.fsum(factors))


def describe_oversampling(
    labels: np.ndarray, threshold: float, findings: Sequence[str], samples: int
) -> str:
    """Describe the effect of `train.oversample_threshold` in one line; empty if it has none.

    Args:
        labels: (N, F), 0, 1 or NaN.
        threshold: `train.oversample_threshold`.
        findings: F names.
        samples: number of samples that an epoch draws.
    """
    frequencies = sampling_frequencies(labels, threshold)
    if (frequencies == 1).all():
        return ""
    rare = [
        f"{finding} ({prevalence:.1%})"
        for finding, prevalence in zip(findings, _prevalences(labels), strict=True)
        if 0 < prevalence < threshold
    ]
    count = (frequencies > frequencies.min()).sum()
    return (
        f"{count} of {len(labels)} samples have a finding rarer than {threshold:.1%} and are drawn "
        f"up to {frequencies.max() / frequencies.min():.1f} times as often as the others; an epoch "
        f"still draws {samples}: {first_few(rare)}"
    )


def _prevalences(labels: np.ndarray) -> np.ndarray:
    """Return the fraction of positives among the labels of each finding: (F,), 0 without any."""
    positives: np.ndarray = (labels == 1).sum(axis=0) / np.maximum(
        is_labeled(labels).sum(axis=0), 1
    )
    return positives
