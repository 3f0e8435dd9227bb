"""What a training learns from and what it validates on, and each process's share of both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch.utils.data import DataLoader, Subset

from multi_abnormality.data.batches import Example, WholeVolumes, whole_loader
from multi_abnormality.data.drawn import (
    DrawnVolumes,
    drawn_loader,
    group_samples,
    leave_signals_to_parent,
)
from multi_abnormality.data.patients import describe_validation
from multi_abnormality.data.splits import split_validation
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.errors import InputError
from multi_abnormality.model.device import loading_workers
from multi_abnormality.params import Params
from multi_abnormality.training.debug import choose
from multi_abnormality.training.one_sided import told_one_sided
from multi_abnormality.training.position import Position
from multi_abnormality.training.ranks import Ranks
from multi_abnormality.training.validation import findings_of_both_classes


@dataclass(frozen=True)
class Selection:
    """Volumes of the train split that a run trains and validates on.

    Attributes:
        train: names of the training volumes.
        validation: names of the volumes of the held-out patients.
        samples: the training volumes of each sample, of which an epoch takes one.
        warnings: a line for all findings with only one class in one of the two parts.
    """

    train: list[str]
    validation: list[str]
    samples: list[list[str]]
    warnings: list[str]


def select_volumes(
    params: Params, rows: pd.DataFrame, findings: Sequence[str], devices: int = 1
) -> Selection:
    """Select the volumes of a run by the tables alone, before any is read.

    Args:
        params: of the run, with its debug settings applied.
        rows: a row per volume of the train split, of a processed set or of a catalogue.
        findings: names.
        devices: number of devices that train together.

    Raises:
        InputError: there are too few patients or scans, or no finding can be validated.
    """
    settings = params.train
    train, validation = split_validation(rows, findings, settings.validation_fraction, params.seed)
    rows = rows.set_index("name")
    scans = rows["scan_id"].loc[[*train, *validation]].tolist()
    train, validation = choose(params, train, validation, scans)
    samples = group_samples(train, rows["scan_id"].loc[train].tolist(), settings.reconstructions)
    if len(samples) < settings.batch_size:
        raise InputError(
            f"train.batch_size: {settings.batch_size} is more than the {len(samples)} "
            "scans there are to train on; lower it"
        )
    if len(validation) < devices:
        raise InputError(
            f"machine.devices: {devices} devices are more than the {len(validation)} "
            "volumes there are to validate on; raise train.validation_fraction or use fewer"
        )
    labels = rows[list(findings)]
    validated = labels.loc[validation].to_numpy()
    findings_of_both_classes(torch.tensor(validated))
    trained = labels.loc[[volumes[0] for volumes in samples]].to_numpy()
    is_debug = settings.debug != "none"  # few scans have few findings
    warnings = [] if is_debug else told_one_sided(findings, trained, validated)
    return Selection(train, validation, samples, warnings)


class Volumes:
    """Of the train split.

    Args:
        params: of the run, settled.
        processed: where the volumes are.
        ranks: the processes that train together.

    Attributes:
        drawn: those to learn from.
        whole: those of the patients who are held out.
        warnings: lines to log before the training starts.
        batches: of an epoch.
        share: volumes of each batch that one process has.
        looks: batches of a validation that every process has, however the volumes fall to them.

    Raises:
        InputError: there are too few.
    """

    def __init__(self, params: Params, processed: ProcessedSet, ranks: Ranks) -> None:
        self.params = params
        self.ranks = ranks
        rows = processed.volumes("train")
        selection = select_volumes(params, rows, processed.findings, ranks.size)
        self.names = {"train": selection.train, "validation": selection.validation}
        self.warnings = selection.warnings
        self.drawn = DrawnVolumes(
            processed, selection.train, params.train, params.seed, params.model.adjacent_slices
        )
        self.whole = WholeVolumes(processed, selection.validation)
        patient_of = dict(zip(rows["name"], rows["patient_id"], strict=True))
        self._validation_patients = [patient_of[name] for name in selection.validation]
        self.batches = len(self.drawn) // params.train.batch_size
        self.share = params.train.batch_size // ranks.size
        self.looks = math.ceil(len(self.whole) // ranks.size / self.share)

    def describe_validation(self) -> str:
        """How many patients the best epoch is chosen on, and whether they are few."""
        return describe_validation(self.whole.labels, self._validation_patients)

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
