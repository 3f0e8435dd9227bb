"""Training and validation batches of a run, on each rank."""

import math
from collections.abc import Generator

import torch
from torch.utils.data import DataLoader, Subset

from multi_abnormality.config.schema import Params
from multi_abnormality.data.catalog.label_checks import describe_validation
from multi_abnormality.data.loading.epoch_sampler import EpochSampler, describe_oversampling
from multi_abnormality.data.loading.eval_dataset import EvalDataset, eval_dataloader
from multi_abnormality.data.loading.feature_store import FeatureStore
from multi_abnormality.data.loading.train_dataset import (
    TrainDataset,
    leave_signals_to_parent,
    train_dataloader,
)
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.data.transforms.batch import Batch, Example, batches_on_device
from multi_abnormality.models.device import num_loader_workers
from multi_abnormality.runtime.process_group import ProcessGroup
from multi_abnormality.training.volume_selection import select_volumes


class DataModule:
    """Datasets of the train split, and this rank's batches of them.

    Args:
        params: parameters with debug overrides applied.

    Attributes:
        findings: names of the labels' columns.
        train_dataset: training volumes.
        val_dataset: volumes of the held-out patients.
        warnings: lines to log before training starts.
        batches: number of training batches per epoch.
        val_batches: number of this rank's validation batches.
        stop_check_batches: number of validation batches that every rank has at least.

    Raises:
        InputError: there are too few volumes.
    """

    def __init__(
        self, params: Params, processed: ProcessedDataset, ranks: ProcessGroup, device: torch.device
    ) -> None:
        self.params = params
        self.ranks = ranks
        self.device = device
        self.findings = processed.findings
        rows = processed.volumes("train")
        selection = select_volumes(params, rows, processed.findings, ranks.size)
        self.names = {"train": selection.train, "validation": selection.validation}
        self.warnings = selection.warnings
        self.train_dataset = TrainDataset(
            processed, selection.train, params.train, params.seed, params.model.adjacent_slices,
            selection.untrained,
        )  # fmt: skip
        self.val_dataset = EvalDataset(processed, selection.validation, selection.untrained)
        patient_of = dict(zip(rows["name"], rows["patient_id"], strict=True))
        self._validation_patients = [patient_of[name] for name in selection.validation]
        self.batches = len(self.train_dataset) // params.train.batch_size
        self._rank_batch_size = params.train.batch_size // ranks.size
        self._shard = ranks.shard_indices(len(self.val_dataset))
        self.val_batches = math.ceil(len(self._shard) / self._rank_batch_size)
        fewest = len(self.val_dataset) // ranks.size
        self.stop_check_batches = math.ceil(fewest / self._rank_batch_size)
        self._train_loader: DataLoader[Example] | None = None

    def describe_validation(self) -> str:
        """Describe the number of validation patients, and whether it is small."""
        return describe_validation(self.val_dataset.labels, self._validation_patients)

    def describe_oversampling(self) -> str:
        """Describe what `train.oversample_threshold` does; empty if nothing."""
        settings = self.params.train
        return describe_oversampling(
            self.train_dataset.labels, settings.oversample_threshold, self.findings,
            self.batches * settings.batch_size,
        )  # fmt: skip

    def use_features(self, features: FeatureStore) -> None:
        """Let batches have the features of slices instead of volumes; call before the first one."""
        self.train_dataset.features = self.val_dataset.features = features

    def train_batches(self, epoch: int, first: int) -> Generator[Batch]:
        """Yield this rank's training batches of an epoch, from number `first` on."""
        if self._train_loader is None:  # its workers stay for all epochs
            self._train_loader = train_dataloader(
                self.train_dataset, self.params.train.batch_size, self._workers,
                epoch, first, self.ranks.rank, self.ranks.size,
            )  # fmt: skip
        sampler = self._train_loader.sampler
        assert isinstance(sampler, EpochSampler)
        sampler.set_epoch(epoch)
        yield from batches_on_device(self._train_loader, self.device)

    def validation_batches(self) -> Generator[Batch]:
        """Yield this rank's validation batches."""
        loader = eval_dataloader(
            Subset(self.val_dataset, self._shard), self._rank_batch_size, self._workers,
            leave_signals_to_parent,
        )  # fmt: skip
        yield from batches_on_device(loader, self.device)

    @property
    def _workers(self) -> int:
        return num_loader_workers(self.params, self.ranks.local_size)

    def close(self) -> None:
        """Stop the training loader's workers, which ignore signals."""
        self._train_loader = None
