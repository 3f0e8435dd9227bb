"""Dataset of complete volumes, for validation and evaluation."""

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from multi_abnormality.data.loading.collate import collate
from multi_abnormality.data.loading.feature_store import FeatureStore
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.data.transforms.batch import Example


class EvalDataset(Dataset[Example]):
    """Complete volumes without augmentation.

    Args:
        processed: processed set to read from.
        names: names of the volumes, in order.
        untrained: findings whose labels are left out.

    Attributes:
        features: features to return instead of the volumes; None for volumes.
    """

    features: FeatureStore | None = None

    def __init__(
        self, processed: ProcessedDataset, names: Sequence[str], untrained: Collection[str] = ()
    ) -> None:
        self.processed = processed
        self.names = list(names)
        self.labels = processed.labels_of(names, untrained).astype(np.float32)
        self.scans = np.unique(processed.scans_of(names), return_inverse=True)[1]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        name = self.names[index]
        example = Example(labels=self.labels[index], scan=self.scans[index])
        if self.features is None:
            example["volume"] = self.processed.read(name)
        else:
            example["features"] = self.features.read(name)
        return example


def eval_dataloader(
    dataset: Dataset[Example],
    batch_size: int,
    workers: int,
    worker_init: Callable[[int], None] | None = None,
) -> DataLoader[Example]:
    """Load every volume once, in order.

    Args:
        dataset: an EvalDataset, or a subset of one.
        batch_size: volumes per batch.
        workers: number of worker processes; 0 loads in this process.
        worker_init: called in each worker process when it starts.
    """
    return DataLoader(
        dataset,
        batch_size,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=worker_init,
        pin_memory=torch.cuda.is_available(),
    )
