"""Types of examples and batches, and the batches of a data loader on a device."""

from collections.abc import Iterable, Iterator
from typing import Any, TypedDict, cast

import numpy as np
import torch
from torch import Tensor


class Batch(TypedDict, total=False):
    """A batch. Fields marked "training only" are absent in validation, and vice versa."""

    name: list[str]  # names of the volumes, training only
    volume: Tensor  # (N, S, Y, X) uint8 codes; in training each slice with its neighbours
    features: Tensor  # (N, S, width) float16 of a frozen encoder, instead of `volume`
    labels: Tensor  # (N, F) float32, NaN where a label is missing
    height: Tensor  # (N, S) from 0 (lowest slice of the volume) to 1 (highest), training only
    scan: Tensor  # (N,) int64: equal for the reconstructions of a scan, validation only
    augmentation: dict[str, Any]  # parameters, see Augmentation.apply, training only


class Example(TypedDict, total=False):
    """One element of a Batch."""

    name: str
    volume: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    height: np.ndarray
    scan: np.int64
    augmentation: dict[str, np.ndarray]


def batches_on_device(loader: Iterable[Any], device: torch.device) -> Iterator[Batch]:
    """Yield the loader's batches, moved to the device one ahead of the step that uses them.

    Copies from pinned memory do not block, so no step waits for its data. Seeds stay on the host,
    where generators need them.
    """
    moved = (move_batch(batch, device) for batch in loader)
    current = next(moved, None)
    while current is not None:
        following = next(moved, None)
        yield current
        current = following


def move_batch(batch: dict[str, Any], device: torch.device) -> Batch:
    """Move a collated batch to a device."""
    moved: dict[str, Any] = {}
    for name, value in batch.items():
        if name == "seed":
            moved[name] = value.tolist()
        elif isinstance(value, dict):
            moved[name] = move_batch(value, device)
        elif isinstance(value, list):
            moved[name] = value
        else:
            moved[name] = torch.as_tensor(value).to(device, non_blocking=True)
    return cast(Batch, moved)
