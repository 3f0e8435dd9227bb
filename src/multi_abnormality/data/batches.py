"""The processed set as batches for training."""

import signal
from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from multi_abnormality.data.augment import draw
from multi_abnormality.data.randomness import generator
from multi_abnormality.data.sampler import EpochSampler
from multi_abnormality.data.store import ProcessedSet


class Batch(TypedDict, total=False):
    volume: Tensor  # (N, S, Y, X) uint8 codes
    labels: Tensor  # (N, F) float32
    height: Tensor  # (N, S) of each slice, 0 the volume's lowest to 1 its highest
    affine: Tensor  # (N, 2, 3), training only
    intensity: Tensor  # (N, 2), training only


class WholeVolumes(Dataset):
    """Volumes with all their slices, as they are.

    Args:
        processed: where they are.
        names: which, and in which order.
    """

    def __init__(self, processed: ProcessedSet, names: Sequence[str]) -> None:
        self.processed = processed
        self.names = list(names)
        self.labels = processed.labels_of(names).astype(np.float32)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Batch:
        volume = self.processed.read(self.names[index])
        height = np.linspace(0, 1, len(volume), dtype=np.float32)
        return Batch(volume=volume, labels=self.labels[index], height=height)


class DrawnVolumes(WholeVolumes):
    """Some slices of each volume, with its augmentation: a function of (seed, epoch, name).

    Args:
        slices: how many of each volume.
        seed: of the run.
    """

    def __init__(
        self, processed: ProcessedSet, names: Sequence[str], slices: int, seed: int
    ) -> None:
        super().__init__(processed, names)
        self.slices = slices
        self.seed = seed

    def __getitem__(self, place: tuple[int, int]) -> Batch:
        epoch, index = place
        whole = super().__getitem__(index)
        rng = generator(self.seed, "augment", epoch, self.names[index])
        drawn = draw(rng, len(whole["volume"]), self.slices)
        return Batch(
            volume=whole["volume"][drawn.slices],
            labels=whole["labels"],
            height=whole["height"][drawn.slices],
            affine=drawn.affine,
            intensity=drawn.intensity,
        )


def whole_loader(
    dataset: WholeVolumes,
    batch_size: int,
    workers: int,
    worker_init: Callable[[int], None] | None = None,
) -> DataLoader:
    """Every volume once, in order.

    Args:
        dataset: of volumes.
        batch_size: volumes.
        workers: processes that load; 0: this one.
        worker_init: called by each of them first.
    """
    return DataLoader(
        dataset,
        batch_size,
        num_workers=workers,
        worker_init_fn=worker_init,
        pin_memory=torch.cuda.is_available(),
    )


def drawn_loader(
    dataset: DrawnVolumes, batch_size: int, workers: int, epoch: int, batch: int
) -> DataLoader:
    """Epochs of batches to learn from. The number of workers changes no result.

    Args:
        dataset: of volumes.
        batch_size: volumes.
        workers: processes that load; 0: this one.
        epoch: the first.
        batch: the first of that epoch.
    """
    return DataLoader(
        dataset,
        batch_size,
        sampler=EpochSampler(len(dataset), dataset.seed, batch_size, epoch, batch),
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
