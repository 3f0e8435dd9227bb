"""Encodes the slices of all volumes of a run once, if its encoder is frozen."""

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from multi_abnormality.data.loading.feature_store import FeatureStore
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.runtime.graceful_stop import Stopped, StopRequest
from multi_abnormality.runtime.process_group import ProcessGroup
from multi_abnormality.training.frozen_features import round_features
from multi_abnormality.training.training_step import TrainingStep
from multi_abnormality.utils.code_hash import code_hashes
from multi_abnormality.utils.collectives import gather
from multi_abnormality.utils.console import log, track

# Parameters of the model that the features do not depend on; weights are known by content.
_OTHERS = {
    "dropout", "finetune", "lora", "pooling", "pretrained", "pretrained_sha256", "unfreeze_epoch",
}  # fmt: skip
_CODE = ("models/classifier.py",)  # and what it imports of the package
_WITHOUT_INFLUENCE = ("__init__", "config/", "utils/")
SHARD_VOLUMES = 64
SHARD_SECONDS = 60.0  # of encoding that a kill may lose


def encode_volumes(
    step: TrainingStep,
    processed: ProcessedDataset,
    names: Sequence[str],
    store: FeatureStore,
    ranks: ProcessGroup,
    stop: StopRequest,
) -> None:
    """Add the features of all volumes that the store lacks. All ranks call this.

    Ranks divide the volumes among them. Each volume is encoded by itself, so that its features do
    not depend on others.

    Raises:
        InputError: features are not finite, or cannot be written.
        Stopped: a stop was requested on any rank; the features so far are saved.
    """
    if ranks.is_rank_zero:
        store.open()
    store.locations = gather(store.locations)[0]
    by_hash = {store.hashes[name]: name for name in names if name not in store}
    missing = list(by_hash.values())
    log.info("frozen encoder: volumes with features in %s: %d of %d",
             store.folder, len(names) - len(missing), len(names))  # fmt: skip
    mine = iter(missing[ranks.rank :: ranks.size])
    turns = range(math.ceil(len(missing) / ranks.size))
    shard: dict[str, np.ndarray] = {}  # features that are not written yet
    started = time.monotonic()
    for turn in track(turns, "encode slices", len(turns)) if ranks.is_rank_zero else turns:
        reason, _ = ranks.agree(stop.reason, False)  # in each turn, since ranks must not drift
        for name in islice(mine, 0 if reason else 1):
            codes = torch.from_numpy(processed.read(name))[None].to(step.fabric.device)
            shard[name] = round_features(step.encode(codes)[0], name)
        is_due = len(shard) == SHARD_VOLUMES or time.monotonic() - started >= SHARD_SECONDS
        if shard and (is_due or reason or turn == turns[-1]):
            store.write(list(shard), list(shard.values()))
            shard, started = {}, time.monotonic()
        if reason:
            raise Stopped(reason)
    for locations in gather(store.locations):
        store.locations |= locations


def features_key(
    model: VolumeClassifier, metadata: Mapping[str, Any], compiled: bool, package: Path
) -> str:
    """Return a hash of everything but the volume that features depend on.

    Args:
        metadata: of the run's checkpoints.
        package: directory of this package's source.
    """
    cfg = metadata.get("pretrained_cfg", {})
    parts = {
        "weights": _hash_tensors(model.windows) + _hash_tensors(model.encoder),
        "model": {k: v for k, v in metadata["model"].items() if k not in _OTHERS},
        "network": [cfg.get(key) for key in ("architecture", "model_args")],
        "preprocess": metadata["preprocess"],
        "environment": metadata["environment"],
        "compiled": compiled,
        "code": code_hashes(package, _CODE, _WITHOUT_INFLUENCE),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _hash_tensors(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().flatten().numpy().data)
    return digest.hexdigest()
