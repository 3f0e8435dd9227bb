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
    moved = {name: _to(value, device) for name, value in batch.items() if name != "seed"}
    if "seed" in batch:
        moved["seed"] = batch["seed"].tolist()
    return cast(Batch, moved)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: _to(each, device) for name, each in value.items()}
    return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
