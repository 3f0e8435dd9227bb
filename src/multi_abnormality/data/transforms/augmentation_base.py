"""Base class of the augmentations."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

AIR = -1024.0  # HU


class Augmentation(ABC):
    """One augmentation. Its parameters are arrays by name, and a batch stacks them.

    Attributes:
        stream: name of the stream of random numbers that `sample` draws from. With a stream of its
            own, an augmentation does not change the parameters of the others.
    """

    stream: str

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Sample the parameters of one volume."""

    @abstractmethod
    def apply(self, hu: Tensor, params: Mapping[str, Any]) -> Tensor:
        """Augment volumes.

        Args:
            hu: (N, S, Y, X) float32, in HU.
            params: parameters of all augmentations by name, tensors (N, ...), and `seed`: N
                integers on the host, seeds of random numbers that are generated on the device.

        Returns:
            (N, S, Y, X) float32, in HU.
        """
