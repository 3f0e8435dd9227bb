"""Batches of a data loader on the device that uses them."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch

from multi_abnormality.data.transforms.batch import Batch


def batches_on_device(loader: Iterable[Any], device: torch.device) -> Iterator[Batch]:
    """Yield the loader's batches, moved to the device one ahead of the step that uses them.

    Copies from pinned memory do not block, so no step waits for its data. Seeds stay on the host,
    where generators need them.
    """
    moved = (_move(batch, device) for batch in loader)
    current = next(moved, None)
    while current is not None:
        following = next(moved, None)
        yield current
        current = following


def _move(batch: dict[str, Any], device: torch.device) -> Batch:
    moved: dict[str, Any] = {}
    for name, value in batch.items():
        if name == "seed":
            moved[name] = value.tolist()
        elif isinstance(value, dict):
            moved[name] = _move(value, device)
        elif isinstance(value, torch.Tensor):
            moved[name] = value.to(device, non_blocking=True)
        else:
            moved[name] = value
    return cast(Batch, moved)
