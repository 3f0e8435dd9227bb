"""Platform-independent random numbers, with one stream per purpose."""

import hashlib
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Stream:
    """Random stream that depends only on its key, such as (seed, "valid", 3, "a", "noise").

    Only the raw integers of Philox are used, which NumPy guarantees to be stable; its float
    distributions may change between versions or round differently on other processors.
    """

    def __init__(self, *key: object) -> None:
        digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
        self._bits = np.random.Philox(key=int.from_bytes(digest[:16], "little"))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) * 2.0**-53)

    def integer(self, low: int, high: int) -> int:
        """Return an integer from low to high, inclusive."""
        return low + (int(self._bits.random_raw()) >> 11) % (high - low + 1)

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def pick(self, items: Sequence[T]) -> T:
        return items[self.integer(0, len(items) - 1)]

    def side(self) -> float:
        """Return -1 (the patient's right) or 1 (left)."""
        return self.pick((-1.0, 1.0))

    def bell(self) -> float:
        """Return an approximately standard normal number, without log or exp (Irwin-Hall)."""
        return sum(self.uniform() for _ in range(12)) - 6.0

    def direction(self) -> tuple[float, float, float]:
        """Return a uniformly distributed unit vector (x, y, z)."""
        while True:
            x, y, z = (self.uniform(-1, 1) for _ in range(3))
            length = math.sqrt(x * x + y * y + z * z)
            if 0.1 < length <= 1:
                return x / length, y / length, z / length

    def bytes(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return a uint8 array of `shape`, uniformly distributed."""
        count = math.prod(shape)
        words = np.asarray(self._bits.random_raw(-(-count // 8)), dtype="<u8")
        return words.view(np.uint8)[:count].reshape(shape)
