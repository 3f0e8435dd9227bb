"""Training dataset: augmented volumes, each with slices that are sampled in every epoch."""

import signal
from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from multi_abnormality.config.schema import Train
from multi_abnormality.data.loading.collate import collate
from multi_abnormality.data.loading.epoch_sampler import EpochSampler, sampling_frequencies
from multi_abnormality.data.loading.feature_store import FeatureStore
from multi_abnormality.data.loading.slice_sampling import (
    adjacent_slice_indices,
    middle_slices,
    relative_heights,
    sample_slices,
)
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.data.transforms.augment import AUGMENTATIONS, SHARED_STREAM, levels
from multi_abnormality.data.transforms.batch import Example
from multi_abnormality.utils.rng import generator


class TrainDataset(Dataset[Example]):
    """Augmented slices of one volume per scan, a function of (seed, epoch, scan, repetition).

    Args:
        processed: processed set to read from.
        names: names of the volumes.
        settings: number of slices, choice of reconstructions, level of augmentation, and
            oversampling.
        seed: seed of the run.
        adjacent: number of adjacent slices that form one input of the model.
        untrained: findings whose labels are left out.

    Attributes:
        labels: (N, F) float32 labels of the samples, 0, 1 or NaN.
        frequencies: (N,) how often an epoch draws each sample, relative to the mean.
        features: features to return instead of volumes, without augmentation; None for volumes.
    """

    features: FeatureStore | None = None

    def __init__(
        self,
        processed: ProcessedDataset,
        names: Sequence[str],
        settings: Train,
        seed: int,
        adjacent: int = 1,
        untrained: Collection[str] = (),
    ) -> None:
        self.processed = processed
        self.adjacent = adjacent
        self.slices = settings.slices_per_volume
        self.augmentation = settings.augmentation
        self.seed = seed
        self.samples = group_samples(names, processed.scans_of(names), settings.reconstructions)
        firsts = [volumes[0] for volumes in self.samples]
        self.labels = processed.labels_of(firsts, untrained).astype(np.float32)
        self.frequencies = sampling_frequencies(self.labels, settings.oversample_threshold)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, ...]) -> Example:
        """Return a sample.

        Args:
            key: epoch, index and, from the second draw in an epoch on, the number of repetitions.
        """
        epoch, index, *repetition = key
        volumes = self.samples[index]
        name = volumes[0]
        if len(volumes) > 1:
            rng = generator(self.seed, "reconstruction", epoch, name, *repetition)
            name = volumes[rng.integers(len(volumes))]
        if self.features is not None:
            features = self.features.read(name)
            slices, _ = self._sample((epoch, name, *repetition), len(features))
            return Example(
                name=name,
                features=features[slices],
                labels=self.labels[index],
                height=relative_heights(slices, len(features)),
            )
        volume = self.processed.read(name)
        slices, params = self._sample((epoch, name, *repetition), len(volume))
        return Example(
            name=name,
            volume=volume[adjacent_slice_indices(slices, len(volume), self.adjacent)],
            labels=self.labels[index],
            height=relative_heights(slices, len(volume)),
            augmentation=params,
        )

    def _sample(
        self, key: tuple[int | str, ...], depth: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Sample slices and augmentation of a volume. In a stream the order of draws matters."""
        rng = generator(self.seed, SHARED_STREAM, *key)
        chosen = middle_slices(depth, self.slices)
        params: dict[str, np.ndarray] = {}
        for level in levels(self.augmentation):
            for one in AUGMENTATIONS[level]:
                shared = one.stream == SHARED_STREAM
                own = rng if shared else generator(self.seed, one.stream, *key)
                params |= one.sample(own)
            if level == "basic":
                chosen = sample_slices(rng, depth, self.slices)
        return chosen, params | {"seed": np.asarray(rng.integers(2**62))}


def group_samples(
    names: Sequence[str], scans: Sequence[str], reconstructions: str
) -> list[list[str]]:
    """Group volumes into training samples; each epoch uses one volume of each.

    Args:
        names: names of the volumes.
        scans: scan id of each volume.
        reconstructions: `train.reconstructions`: first, random or all.
    """
    samples: dict[str, list[str]] = defaultdict(list)
    for name, scan in zip(names, scans, strict=True):
        samples[name if reconstructions == "all" else scan].append(name)
    last = 1 if reconstructions == "first" else None
    return [volumes[:last] for volumes in samples.values()]


def train_dataloader(
    dataset: TrainDataset,
    batch_size: int,
    workers: int,
    epoch: int,
    batch: int,
    rank: int = 0,
    ranks: int = 1,
) -> DataLoader[Example]:
    """Load training batches. The number of workers does not affect the result.

    Args:
        dataset: training dataset.
        batch_size: global batch size, in volumes.
        workers: number of worker processes; 0 loads in this process.
        epoch: first epoch.
        batch: batch of that epoch to start from.
        rank: rank that the batches are for.
        ranks: number of ranks.
    """
    return DataLoader(
        dataset,
        batch_size // ranks,
        sampler=EpochSampler(
            dataset.frequencies, dataset.seed, batch_size, epoch, batch, rank, ranks
        ),
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=leave_signals_to_parent,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def leave_signals_to_parent(worker: int) -> None:  # noqa: ARG001
    """Ignore stop requests in a loader's worker, which the current step still needs.

    Callers must shut the loader down themselves: multiprocessing stops workers by SIGTERM, and
    would wait forever.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
