"""Encodes the slices of all volumes of a run once, if its encoder is frozen."""

import math
import time
from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch

from multi_abnormality.data.loading.feature_store import FeatureStore
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.runtime.graceful_stop import Stopped, StopRequest
from multi_abnormality.runtime.process_group import ProcessGroup
from multi_abnormality.training.frozen_features import round_features
from multi_abnormality.training.training_step import TrainingStep
from multi_abnormality.utils.collectives import gather
from multi_abnormality.utils.console import log, track

SHARD_VOLUMES = 64
SHARD_SECONDS = 60.0  # of encoding that a kill may lose


class _ShardWriter:
    """Collects the features of a shard."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self._features: dict[str, np.ndarray] = {}
        self._started = time.monotonic()

    def add(self, name: str, features: np.ndarray) -> None:
        self._features[name] = features
        is_old = time.monotonic() - self._started >= SHARD_SECONDS
        if len(self._features) == SHARD_VOLUMES or is_old:
            self.flush()

    def flush(self) -> None:
        if self._features:
            self.store.write(list(self._features), list(self._features.values()))
        self._features, self._started = {}, time.monotonic()


def encode_volumes(
    step: TrainingStep,
    processed: ProcessedDataset,
    names: Sequence[str],
    store: FeatureStore,
    ranks: ProcessGroup,
    stop: StopRequest,
) -> None:
    """Add the features of all volumes that the store lacks. All ranks call this.

    Volumes are encoded one by one, so that the features of one do not depend on the others.

    Args:
        step: has the encoder.
        processed: processed set to read from.
        names: names of the volumes.
        store: store of this encoder's features.
        ranks: processes of the run, which divide the volumes among them.
        stop: what a stop is requested by.

    Raises:
        InputError: features are not finite, or cannot be written.
        Stopped: a stop was requested on any rank; the features so far are saved.
    """
    if ranks.is_rank_zero:
        store.open()
    store.locations = gather(store.locations)[0]
    by_hash = {store.hashes[name]: name for name in names if name not in store}
    missing = list(by_hash.values())
    log.info("frozen encoder: features of %d of %d volumes are in %s",
             len(names) - len(missing), len(names), store.folder)  # fmt: skip
    mine = iter(missing[ranks.rank :: ranks.size])
    writer, turns = _ShardWriter(store), range(math.ceil(len(missing) / ranks.size))
    for _ in track(turns, "encode slices", len(turns)) if ranks.is_rank_zero else turns:
        reason, _ = ranks.agree(stop.reason, False)  # in each turn, since ranks must not drift
        if reason:
            writer.flush()
            raise Stopped(reason)
        for name in islice(mine, 1):
            codes = torch.from_numpy(processed.read(name))[None].to(step.fabric.device)
            writer.add(name, round_features(step.encode(codes)[0], name))
    writer.flush()
    for locations in gather(store.locations):
        store.locations |= locations
