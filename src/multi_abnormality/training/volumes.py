"""What a training learns from and what it validates on, and each process's share of both."""

import math

from torch.utils.data import DataLoader, Subset

from multi_abnormality.data.batches import Example, WholeVolumes, whole_loader
from multi_abnormality.data.drawn import DrawnVolumes, drawn_loader, leave_signals_to_parent
from multi_abnormality.data.splits import split_validation
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.errors import InputError
from multi_abnormality.model.device import loading_workers
from multi_abnormality.params import Params
from multi_abnormality.training.debug import choose
from multi_abnormality.training.position import Position
from multi_abnormality.training.ranks import Ranks


class Volumes:
    """Of the train split.

    Args:
        params: of the run, settled.
        processed: where the volumes are.
        ranks: the processes that train together.

    Attributes:
        drawn: those to learn from.
        whole: those of the patients who are held out.
        batches: of an epoch.
        share: volumes of each batch that one process has.
        looks: batches of a validation that every process has, however the volumes fall to them.

    Raises:
        InputError: there are too few.
    """

    def __init__(self, params: Params, processed: ProcessedSet, ranks: Ranks) -> None:
        self.params = params
        self.ranks = ranks
        train, validation = split_validation(
            processed.volumes("train"),
            processed.findings,
            params.train.validation_fraction,
            params.seed,
        )
        scans = processed.scans_of([*train, *validation])
        train, validation = choose(params, train, validation, scans)
        self.names = {"train": train, "validation": validation}
        self.drawn = DrawnVolumes(
            processed, train, params.train, params.seed, params.model.adjacent_slices
        )
        if len(self.drawn) < params.train.batch_size:
            raise InputError(
                f"train.batch_size: {params.train.batch_size} is more than the {len(self.drawn)} "
                "scans there are to train on; lower it"
            )
        self.whole = WholeVolumes(processed, validation)
        if len(self.whole) < ranks.size:
            raise InputError(
                f"machine.devices: {ranks.size} devices are more than the {len(self.whole)} "
                "volumes there are to validate on; raise train.validation_fraction or use fewer"
            )
        self.batches = len(self.drawn) // params.train.batch_size
        self.share = params.train.batch_size // ranks.size
        self.looks = math.ceil(len(self.whole) // ranks.size / self.share)

    def loaders(self, position: Position) -> tuple[DataLoader[Example], DataLoader[Example]]:
        """This process's share of each batch to learn from, and of the volumes to validate on.

        Args:
            position: where training goes on.
        """
        ranks = self.ranks
        workers = loading_workers(self.params, ranks.place.local_size)
        batches = drawn_loader(
            self.drawn, self.params.train.batch_size, workers,
            position.epoch, position.batch, ranks.rank, ranks.size,
        )  # fmt: skip
        held_out = Subset(self.whole, ranks.volumes(len(self.whole)))
        return batches, whole_loader(held_out, self.share, workers, leave_signals_to_parent)
