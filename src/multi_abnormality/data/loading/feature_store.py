"""Store of a frozen encoder's features: shards of float16, by the SHA-256 of a volume's voxels.

Shards are never rewritten, so runs can read a store while one of them adds to it.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from multi_abnormality.utils.atomic_io import atomic_write
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError

FEATURES, METADATA_KEY = "features", "volumes"  # the only tensor and metadata entry of a shard
SUFFIX = ".safetensors"
_INVALID = (OSError, SafetensorError, KeyError, RecursionError, TypeError, ValueError)
_ABANDONED = 3600  # s; a temporary file this old is from a killed process


class _Location(NamedTuple):
    """Position of a volume's features."""

    shard: str  # file name
    offset: int  # bytes
    shape: tuple[int, int]


class FeatureStore:
    """Features of volumes, (Z, width) float16 each.

    Args:
        folder: directory of the shards of one encoder.
        hashes: SHA-256 of the voxels of each volume, by its name.
    """

    def __init__(self, folder: Path, hashes: Mapping[str, str]) -> None:
        self.folder = folder
        self.hashes = hashes
        self.locations: dict[str, _Location] = {}  # by the SHA-256 of a volume's voxels

    def open(self) -> None:
        """Verify all shards, and delete damaged ones."""
        for path in self.folder.glob(f".*{SUFFIX}.tmp"):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()
        for path in sorted(filter(Path.is_file, self.folder.glob(f"*{SUFFIX}"))):
            try:
                self.locations |= _verified_locations(path)
            except _INVALID as error:
                log.warning("%s: is damaged (%s); its volumes are encoded again", path, error)
                path.unlink()

    def __contains__(self, name: str) -> bool:
        return self.hashes[name] in self.locations

    def read(self, name: str) -> np.ndarray:
        """Read the (Z, width) float16 features of a volume."""
        shard, offset, shape = self.locations[self.hashes[name]]
        path = self.folder / shard
        try:
            return np.fromfile(path, np.float16, shape[0] * shape[1], offset=offset).reshape(shape)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read ({error}); run again, which encodes its volumes again"
            ) from error

    def write(self, names: Sequence[str], features: Sequence[np.ndarray]) -> None:
        """Write the features of volumes as a shard.

        Raises:
            InputError: the disk is full or read-only.
        """
        volumes, stacked = [self.hashes[name] for name in names], np.stack(features)
        digest = _digest(volumes, stacked)
        metadata = {METADATA_KEY: json.dumps({"sha256": digest, "names": volumes})}
        # With the process's number, so that two runs never write to the same file.
        path = self.folder / f"{digest[:16]}-{os.getpid()}{SUFFIX}"
        content = safetensors.numpy.save({FEATURES: stacked}, metadata)
        try:
            atomic_write(content, path)
        except InputError as error:
            raise InputError(
                f"{error}; free some space, or set train.cache_features to never"
            ) from error
        self.locations |= _locations(path, volumes, stacked)


def _verified_locations(path: Path) -> dict[str, _Location]:
    with safe_open(path, framework="numpy") as file:
        metadata = json.loads((file.metadata() or {})[METADATA_KEY])
        features: np.ndarray = file.get_tensor(FEATURES)
    if metadata["sha256"] != _digest(metadata["names"], features):
        raise ValueError("its SHA-256 does not match")
    if features.dtype != np.float16 or features.ndim != 3 or not len(features):
        raise ValueError(f"its features are {features.dtype} of shape {features.shape}")
    if len(metadata["names"]) != len(features):
        raise ValueError("it has another number of names than of volumes")
    return _locations(path, metadata["names"], features)


def _locations(path: Path, volumes: Sequence[str], features: np.ndarray) -> dict[str, _Location]:
    start, size = path.stat().st_size - features.nbytes, features[0].nbytes
    shape = features.shape[1], features.shape[2]
    return {
        volume: _Location(path.name, start + row * size, shape)
        for row, volume in enumerate(volumes)
    }


def _digest(volumes: Sequence[str], features: np.ndarray) -> str:
    described = json.dumps([list(volumes), features.shape, str(features.dtype)])
    digest = hashlib.sha256(described.encode())
    digest.update(np.ascontiguousarray(features).data)
    return digest.hexdigest()
