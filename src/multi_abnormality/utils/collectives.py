"""Exchange of objects between the ranks of a run."""

from typing import TypeVar

from torch import distributed

T = TypeVar("T")


def gather(value: T) -> list[T]:
    """Return the values of all ranks, by rank. All ranks must call this."""
    if not distributed.is_initialized():
        return [value]
    values = [value] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
