"""Sampler of training epochs: resumable, and sharded over ranks."""

from collections.abc import Iterator

from torch.utils.data import Sampler

from multi_abnormality.utils.rng import generator


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) of each sample once per epoch, in an order set by (seed, epoch).

    The epoch is part of the key because augmentation depends on it, and persistent worker processes
    do not receive it in any other way.

    Args:
        size: number of samples.
        seed: seed of the run.
        batch_size: global batch size. A last, smaller batch is dropped: its batch statistics would
            be noise. Which samples are dropped changes with the epoch.
        epoch: first epoch.
        batch: batch of the first epoch to start from.
        rank: rank that the samples are for.
        ranks: number of ranks; a divisor of batch_size.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        batch_size: int,
        epoch: int,
        batch: int,
        rank: int,
        ranks: int,
    ) -> None:
        self.size = size
        self.seed = seed
        self.batch_size = batch_size
        self.used = size - size % batch_size if size > batch_size else size
        self.epoch = epoch
        self.rank = rank
        self.ranks = ranks
        self._done = {epoch: batch * batch_size}

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; call before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the length of a full epoch, even if the first one starts in its middle."""
        return self.used // self.ranks

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = generator(self.seed, "order", self.epoch).permutation(self.size)
        local_batch_size = self.batch_size // self.ranks
        for position in range(self._done.get(self.epoch, 0), self.used):
            if position % self.batch_size // local_batch_size == self.rank:
                yield self.epoch, int(order[position])
