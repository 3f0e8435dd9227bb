"""Counter-based random numbers: pure functions of (seed, purpose, epoch, position).

No generator state has to be saved; neither a restart nor the number of workers changes a result.
"""

import hashlib

import numpy as np


def generator(seed: int, *key: int | str) -> np.random.Generator:
    """Return an independent generator for a key such as (seed, "augment", epoch, "train_1_a_1")."""
    return np.random.Generator(np.random.Philox(key=_digest(seed, *key, size=16)))


def derived_seed(seed: int, *key: int | str) -> int:
    """Return a 63-bit seed for torch, independent for each key."""
    return _digest(seed, *key, size=8) >> 1


def _digest(*key: int | str, size: int) -> int:
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size).digest(), "little")
