"""The processed set as batches: what a batch holds, and whole volumes."""

from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from multi_abnormality.data.store import ProcessedSet


class Batch(TypedDict, total=False):
    name: list[str]  # of the volumes, training only
    volume: Tensor  # (N, S, Y, X) uint8 codes; in training each slice amid its neighbours
    labels: Tensor  # (N, F) float32
    height: Tensor  # (N, S) of each slice, 0 the volume's lowest to 1 its highest, training only
    scan: Tensor  # (N,) int64: equal for the reconstructions of a scan, validation only
    affine: Tensor  # (N, 2, 3), training only
    intensity: Tensor  # (N, 2), training only
    texture: Tensor  # (N, 2), training only
    cutout: Tensor  # (N, 3, 2), training only
    noise_seed: Tensor  # (N,) int64, training only


class Example(TypedDict, total=False):
    """A volume's part of a Batch, which says what each is."""

    name: str
    volume: np.ndarray
    labels: np.ndarray
    height: np.ndarray
    scan: np.int64
    affine: np.ndarray
    intensity: np.ndarray
    texture: np.ndarray
    cutout: np.ndarray
    noise_seed: np.int64


class WholeVolumes(Dataset[Example]):
    """Volumes with all their slices, as they are.

    Args:
        processed: where they are.
        names: which, and in which order.
    """

    def __init__(self, processed: ProcessedSet, names: Sequence[str]) -> None:
        self.processed = processed
        self.names = list(names)
        self.labels = processed.labels_of(names).astype(np.float32)
        self.scans = np.unique(processed.scans_of(names), return_inverse=True)[1]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        volume = self.processed.read(self.names[index])
        return Example(volume=volume, labels=self.labels[index], scan=self.scans[index])


def whole_loader(
    dataset: Dataset[Example],
    batch_size: int,
    workers: int,
    worker_init: Callable[[int], None] | None = None,
) -> DataLoader[Example]:
    """Every volume once, in order.

    Args:
        dataset: WholeVolumes, or a part of them.
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
