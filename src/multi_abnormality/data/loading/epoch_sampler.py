"""Which scans an epoch draws, how often and in which order: resumable, and sharded over ranks."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from multi_abnormality.data.catalog.label_checks import is_labeled
from multi_abnormality.utils.errors import first_few
from multi_abnormality.utils.rng import generator


class EpochSampler(Sampler[tuple[int, ...]]):
    """Yields (epoch, index) of samples in an order set by (seed, epoch): each once per epoch.

    With unequal frequencies an epoch has as many samples, but some of them several times and some
    not at all. A sample's repetitions have their number as a third item, so that they differ.

    The epoch is part of the key because augmentation depends on it, and persistent worker processes
    do not receive it in any other way.

    Args:
        frequencies: (N,) how often to draw each sample, relative to the mean.
        seed: seed of the run.
        batch_size: global batch size. A last, smaller batch is dropped: its batch statistics would
            be noise. Which samples are dropped changes with the epoch.
        epoch: first epoch.
        batch: batch of the first epoch to start from.
        rank: rank that the samples are for.
        ranks: number of ranks; a divisor of batch_size.
    """

    def __init__(
        self,
        frequencies: np.ndarray,
        seed: int,
        batch_size: int,
        epoch: int,
        batch: int,
        rank: int,
        ranks: int,
    ) -> None:
        size = len(frequencies)
        self.frequencies = frequencies
        self.seed = seed
        self.batch_size = batch_size
        self.used = size - size % batch_size if size > batch_size else size
        self.epoch = epoch
        self.rank = rank
        self.ranks = ranks
        self._done = {epoch: batch * batch_size}

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; call before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the length of a full epoch, even if the first one starts in its middle."""
        return self.used // self.ranks

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        order = self._order()
        repetitions: Counter[int] = Counter()
        local_batch_size = self.batch_size // self.ranks
        done = self._done.get(self.epoch, 0)
        for position, index in enumerate(order[: self.used].tolist()):
            if position >= done and position % self.batch_size // local_batch_size == self.rank:
                repetition = repetitions[index]
                yield (self.epoch, index, repetition) if repetition else (self.epoch, index)
            repetitions[index] += 1

    def _order(self) -> np.ndarray:
        """Return the indices of the epoch's samples.

        Systematic sampling of unequal frequencies: an epoch draws each sample as often as is
        expected, rounded up or down.
        """
        rng = generator(self.seed, "order", self.epoch)
        order = rng.permutation(len(self.frequencies))
        if (self.frequencies == 1).all():
            return order
        ends = np.cumsum(self.frequencies[order])
        points = (np.arange(self.used) + rng.random()) * (ends[-1] / self.used)
        drawn = np.searchsorted(ends, points, side="right").clip(max=len(order) - 1)
        return rng.permutation(order[drawn])


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
