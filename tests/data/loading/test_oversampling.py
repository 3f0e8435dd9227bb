"""Epochs in which scans with rare findings are drawn more often."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest

from multi_abnormality.data.loading.epoch_sampler import (
    EpochSampler,
    describe_oversampling,
    sampling_frequencies,
)
from multi_abnormality.data.loading.train_dataset import TrainDataset
from multi_abnormality.utils.rng import generator


def labels_of(*positives: int, samples: int = 200) -> np.ndarray:
    """Create labels (N, F) with a number of positives of each finding, each in other samples."""
    labels = np.zeros((samples, len(positives)), dtype=np.float32)
    first = 0
    for finding, count in enumerate(positives):
        labels[first : first + count, finding] = 1
        first += count
    return labels


def sampler(
    frequencies: np.ndarray, epoch: int = 0, batch: int = 0, rank: int = 0, ranks: int = 1
) -> EpochSampler:
    return EpochSampler(frequencies, 0, 8, epoch, batch, rank, ranks)


def test_samples_of_rare_findings_are_drawn_more_often():
    """By threshold / prevalence of the sample's rarest finding."""
    labels = labels_of(2, 20, 100)
    labels[:1, 1] = 1
    labels[:, 2] = labels[:, 2][::-1]
    frequencies = sampling_frequencies(labels, 0.4)
    relative = frequencies / frequencies[50]
    assert relative[:2] == pytest.approx(40)  # of 1 %, whatever else it has
    assert relative[2:22] == pytest.approx(0.4 / 0.105)
    assert (relative[22:] == 1).all()  # one at 50 % is not rare
    assert frequencies.mean() == pytest.approx(1)


def test_an_epoch_draws_each_sample_as_often_as_expected():
    frequencies = sampling_frequencies(labels_of(3, 20), 0.2)
    epochs = [Counter(key[1] for key in sampler(frequencies, epoch)) for epoch in range(200)]
    assert {counts.total() for counts in epochs} == {200}  # as without oversampling
    for index, expected in enumerate(frequencies):
        drawn = [counts[index] for counts in epochs]
        assert set(drawn) <= {int(expected), int(expected) + 1}
        assert np.mean(drawn) == pytest.approx(expected, abs=0.15)  # four standard errors


@pytest.mark.parametrize("threshold", [0.0, 0.05])
def test_order_is_unchanged_if_no_finding_is_rare(threshold: float):
    frequencies = sampling_frequencies(labels_of(20, 100), threshold)
    assert (frequencies == 1).all()
    keys = [*sampler(frequencies, epoch=3)]
    assert keys == [(3, index) for index in generator(0, "order", 3).permutation(200)]


def test_missing_labels_count_neither_as_positive_nor_as_negative():
    labels = labels_of(10, 0, 5)
    labels[100:, 0] = np.nan  # 10 of 100
    labels[:, 2] = np.nan  # no label
    frequencies = sampling_frequencies(labels, 0.2)
    assert frequencies[:10] / frequencies[150] == pytest.approx(2)
    assert (frequencies[10:] == frequencies[150]).all()  # a finding without positives: no effect
    missing = np.full((50, 3), np.nan)
    assert (sampling_frequencies(missing, 0.4) == 1).all()


def test_repetitions_of_a_sample_in_an_epoch_differ(small_set, small_params):
    names = small_set.volumes("train")["name"].tolist()
    settings = small_params.train.model_copy(update={"reconstructions": "first"})
    volumes = TrainDataset(small_set, names, settings, 0)
    once, twice = volumes[1, 0], volumes[1, 0, 1]
    assert once["name"] == twice["name"]
    np.testing.assert_array_equal(once["labels"], twice["labels"])
    assert not np.array_equal(once["augmentation"]["affine"], twice["augmentation"]["affine"])
    repeated = volumes[1, 0, 1]["augmentation"]["affine"]
    np.testing.assert_array_equal(repeated, twice["augmentation"]["affine"])


def test_repetitions_are_numbered():
    keys = [*sampler(sampling_frequencies(labels_of(2), 0.1), epoch=5)]
    assert len(set(keys)) == len(keys)
    rare = sorted(key[2:] for key in keys if key[1] == 0)
    assert rare == [(), *((number,) for number in range(1, len(rare)))]
    assert len(rare) > 3


@pytest.mark.parametrize("batch", [0, 7, 24])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_and_resumed_epochs_draw_the_same_samples(batch: int, ranks: int):
    frequencies = sampling_frequencies(labels_of(3, 20), 0.2)
    whole = [*sampler(frequencies, epoch=2)]
    shares = [[*sampler(frequencies, 2, batch, rank, ranks)] for rank in range(ranks)]
    batches = [
        [*chain(*(share[start : start + 8 // ranks] for share in shares))]
        for start in range(0, len(shares[0]), 8 // ranks)
    ]
    assert [*chain(*batches)] == whole[8 * batch :]


def test_effect_is_described():
    findings = ["Common", "Rare"]
    labels = labels_of(100, 4)
    line = describe_oversampling(labels, 0.04, findings, 192)
    assert line.startswith("4 of 200 samples have a finding rarer than 4.0%")
    assert "up to 2.0 times as often" in line
    assert line.endswith("an epoch still draws 192: Rare (2.0%)")
    assert describe_oversampling(labels, 0.01, findings, 192) == ""
