"""Everything random is a pure function of (seed, what for, epoch, position).

So nothing random has to be saved: neither a restart nor the number of workers changes a result.
"""

import hashlib

import numpy as np


def generator(seed: int, *place: int | str) -> np.random.Generator:
    """A generator of its own for each place, such as (seed, "augment", epoch, "train_1_a_1")."""
    return np.random.Generator(np.random.Philox(key=_digest(seed, *place, size=16)))


def derived_seed(seed: int, *place: int | str) -> int:
    """A 63-bit seed for torch, of its own for each place."""
    return _digest(seed, *place, size=8) >> 1


def _digest(*place: int | str, size: int) -> int:
    text = "\x1f".join(str(part) for part in place)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size).digest(), "little")
