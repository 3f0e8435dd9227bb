"""The order of an epoch."""

from collections.abc import Iterator

from torch.utils.data import Sampler

from multi_abnormality.data.randomness import generator


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) of each sample once an epoch, in an order that (seed, epoch) decides.

    The epoch travels with the index, because a sample's augmentation draws from it, and worker
    processes that outlive an epoch hear of it in no other way.

    Args:
        size: how many samples there are.
        seed: of the run.
        batch_size: samples of a last, smaller batch sit out: batch statistics of a few volumes
            would be noise. Which they are changes with the epoch.
        epoch: the first. Lightning makes its first iterator before it calls `set_epoch`, so that a
            resumed run would begin with the order of epoch 0.
        batch: of the first epoch, from which on it goes: those before it are done.
        rank: which share of each batch is yielded.
        ranks: how many equal shares a batch has; they divide batch_size.
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
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Of a whole epoch, also where part of the first one is done."""
        return self.used // self.ranks

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = generator(self.seed, "order", self.epoch).permutation(self.size)
        share = self.batch_size // self.ranks
        for place in range(self._done.get(self.epoch, 0), self.used):
            if place % self.batch_size // share == self.rank:
                yield self.epoch, int(order[place])
