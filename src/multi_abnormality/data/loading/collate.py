"""Collation of examples to a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from multi_abnormality.data.transforms.batch import Example


def collate(examples: Sequence[Example]) -> dict[str, Any]:
    """Stack the arrays of examples: volumes and features to tensors, the others to arrays.

    Workers send a tensor through shared memory, which costs more than pickling a small one.
    """
    return {
        name: torch.from_numpy(value) if name in ("volume", "features") else value
        for name, value in _stack(examples).items()
    }


def _stack(examples: Sequence[Any]) -> Any:
    if isinstance(examples[0], dict):
        return {name: _stack([each[name] for each in examples]) for name in examples[0]}
    return list(examples) if isinstance(examples[0], str) else np.stack(examples)
