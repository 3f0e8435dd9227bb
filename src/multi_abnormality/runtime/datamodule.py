"""Training and validation volumes of a run, and each rank's part of both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch.utils.data import DataLoader, Subset

from multi_abnormality.config.schema import Params
from multi_abnormality.data.catalog.patient_counts import describe_validation
from multi_abnormality.data.catalog.splits import split_validation
from multi_abnormality.data.loading.eval_dataset import EvalDataset, eval_dataloader
from multi_abnormality.data.loading.train_dataset import (
    TrainDataset,
    group_samples,
    leave_signals_to_parent,
    train_dataloader,
)
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.data.transforms.batch import Example
from multi_abnormality.models.device import num_loader_workers
from multi_abnormality.runtime.debug_modes import debug_subset
from multi_abnormality.runtime.process_group import DistributedContext
from multi_abnormality.runtime.train_progress import TrainProgress
from multi_abnormality.training.single_class_warnings import single_class_warnings
from multi_abnormality.training.val_metrics import findings_of_both_classes
from multi_abnormality.utils.errors import InputError


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
        devices: number of devices of the run.

    Raises:
        InputError: there are too few patients or scans, or no finding can be validated.
    """
    settings = params.train
    train, validation = split_validation(rows, findings, settings.val_fraction, params.seed)
    rows = rows.set_index("name")
    scans = rows["scan_id"].loc[[*train, *validation]].tolist()
    train, validation = debug_subset(params, train, validation, scans)
    samples = group_samples(train, rows["scan_id"].loc[train].tolist(), settings.reconstructions)
    if len(samples) < settings.batch_size:
        raise InputError(
            f"train.batch_size: {settings.batch_size} is more than the {len(samples)} "
            "scans there are to train on; lower it"
        )
    if len(validation) < devices:
        raise InputError(
            f"machine.devices: {devices} devices are more than the {len(validation)} "
            "volumes there are to validate on; raise train.val_fraction or use fewer"
        )
    labels = rows[list(findings)]
    validated = labels.loc[validation].to_numpy()
    findings_of_both_classes(torch.tensor(validated))
    trained = labels.loc[[volumes[0] for volumes in samples]].to_numpy()
    is_debug = settings.debug != "none"  # few scans have few findings
    warnings = [] if is_debug else single_class_warnings(findings, trained, validated)
    return Selection(train, validation, samples, warnings)


class DataModule:
    """Datasets and loaders of the train split.

    Args:
        params: parameters with debug overrides applied.
        processed: the processed dataset.
        ranks: distributed context.

    Attributes:
        train_dataset: training volumes.
        val_dataset: volumes of the held-out patients.
        warnings: lines to log before training starts.
        batches: number of batches per epoch.
        per_rank_batch_size: volumes of each batch that one rank gets.
        stop_check_batches: number of validation batches that every rank has at least.

    Raises:
        InputError: there are too few volumes.
    """

    def __init__(
        self, params: Params, processed: ProcessedDataset, ranks: DistributedContext
    ) -> None:
        self.params = params
        self.ranks = ranks
        rows = processed.volumes("train")
        selection = select_volumes(params, rows, processed.findings, ranks.size)
        self.names = {"train": selection.train, "validation": selection.validation}
        self.warnings = selection.warnings
        self.train_dataset = TrainDataset(
            processed, selection.train, params.train, params.seed, params.model.adjacent_slices
        )
        self.val_dataset = EvalDataset(processed, selection.validation)
        patient_of = dict(zip(rows["name"], rows["patient_id"], strict=True))
        self._validation_patients = [patient_of[name] for name in selection.validation]
        self.batches = len(self.train_dataset) // params.train.batch_size
        self.per_rank_batch_size = params.train.batch_size // ranks.size
        fewest = len(self.val_dataset) // ranks.size
        self.stop_check_batches = math.ceil(fewest / self.per_rank_batch_size)

    def describe_validation(self) -> str:
        """Describe the number of validation patients, and whether it is small."""
        return describe_validation(self.val_dataset.labels, self._validation_patients)

    def loaders(self, position: TrainProgress) -> tuple[DataLoader[Example], DataLoader[Example]]:
        """Return this rank's training and validation loaders.

        Args:
            position: epoch and batch to resume at.
        """
        ranks = self.ranks
        workers = num_loader_workers(self.params, ranks.rank_info.local_size)
        batches = train_dataloader(
            self.train_dataset, self.params.train.batch_size, workers,
            position.epoch, position.batch, ranks.rank, ranks.size,
        )  # fmt: skip
        held_out = Subset(self.val_dataset, ranks.shard_indices(len(self.val_dataset)))
        return batches, eval_dataloader(
            held_out, self.per_rank_batch_size, workers, leave_signals_to_parent
        )
