"""Volumes to learn from: a few slices of each, drawn anew in each epoch."""

import signal
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from multi_abnormality.data.augment import draw, with_neighbours
from multi_abnormality.data.batches import Example
from multi_abnormality.data.randomness import generator
from multi_abnormality.data.sampler import EpochSampler
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.params import Train


class DrawnVolumes(Dataset[Example]):
    """Some slices of a volume of each scan, augmented: a function of (seed, epoch, scan).

    Args:
        processed: where the volumes are.
        names: which.
        settings: how many slices, of which reconstructions, and the level of augmentation.
        seed: of the run.
        adjacent: slices that the model sees at once, around each of them.
    """

    def __init__(
        self,
        processed: ProcessedSet,
        names: Sequence[str],
        settings: Train,
        seed: int,
        adjacent: int = 1,
    ) -> None:
        self.processed = processed
        self.adjacent = adjacent
        self.slices = settings.slices
        self.augmentation = settings.augmentation
        self.seed = seed
        self.samples = group_samples(names, processed.scans_of(names), settings.reconstructions)
        firsts = [volumes[0] for volumes in self.samples]
        self.labels = processed.labels_of(firsts).astype(np.float32)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: tuple[int, int]) -> Example:
        epoch, index = place
        volumes = self.samples[index]
        name = volumes[0]
        if len(volumes) > 1:
            rng = generator(self.seed, "reconstruction", epoch, name)
            name = volumes[rng.integers(len(volumes))]
        volume = self.processed.read(name)
        rng = generator(self.seed, "augment", epoch, name)
        drawn = draw(rng, len(volume), self.slices, self.augmentation)
        return Example(
            name=name,
            volume=volume[with_neighbours(drawn.slices, len(volume), self.adjacent)],
            labels=self.labels[index],
            height=heights(len(volume))[drawn.slices],
            affine=drawn.affine,
            intensity=drawn.intensity,
            texture=drawn.texture,
            cutout=drawn.cutout,
            noise_seed=drawn.noise_seed,
        )


def group_samples(
    names: Sequence[str], scans: Sequence[str], reconstructions: str
) -> list[list[str]]:
    """The volumes of each training sample, of which an epoch takes one.

    Args:
        names: of the volumes.
        scans: the scan that each is a reconstruction of.
        reconstructions: the parameter of this name.
    """
    samples: dict[str, list[str]] = defaultdict(list)
    for name, scan in zip(names, scans, strict=True):
        samples[name if reconstructions == "all" else scan].append(name)
    last = 1 if reconstructions == "first" else None
    return [volumes[:last] for volumes in samples.values()]


def heights(depth: int) -> np.ndarray:
    """(Z,) float32: of each slice, 0 the lowest to 1 the highest."""
    return np.linspace(0, 1, depth, dtype=np.float32)


def drawn_loader(
    dataset: DrawnVolumes,
    batch_size: int,
    workers: int,
    epoch: int,
    batch: int,
    rank: int = 0,
    ranks: int = 1,
) -> DataLoader[Example]:
    """Epochs of batches to learn from. The number of workers changes no result.

    Args:
        dataset: of volumes.
        batch_size: volumes.
        workers: processes that load; 0: this one.
        epoch: the first.
        batch: the first of that epoch.
        rank: which share of each batch is loaded.
        ranks: how many equal shares a batch has.
    """
    return DataLoader(
        dataset,
        batch_size // ranks,
        sampler=EpochSampler(len(dataset), dataset.seed, batch_size, epoch, batch, rank, ranks),
        num_workers=workers,
        worker_init_fn=leave_signals_to_parent,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def leave_signals_to_parent(worker: int) -> None:  # noqa: ARG001
    """For workers of a training: Ctrl-C and a scheduler's SIGTERM reach them as well, and the step
    under way needs them. Who uses this must shut the loader down: multiprocessing ends workers by
    SIGTERM, and would wait for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
