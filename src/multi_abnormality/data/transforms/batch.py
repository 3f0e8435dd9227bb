"""Types of examples and batches."""

from typing import Any, TypedDict

import numpy as np
from torch import Tensor


class Batch(TypedDict, total=False):
    """A batch. Fields marked "training only" are absent in validation, and vice versa."""

    name: list[str]  # names of the volumes, training only
    volume: Tensor  # (N, S, Y, X) uint8 codes; in training each slice with its neighbours
    features: Tensor  # (N, S, width) float16 of a frozen encoder, instead of `volume`
    labels: Tensor  # (N, F) float32, NaN where a label is missing
    height: Tensor  # (N, S) from 0 (lowest slice of the volume) to 1 (highest), training only
    scan: Tensor  # (N,) int64: equal for the reconstructions of a scan, validation only
    augmentation: dict[str, Any]  # parameters, see Augmentation.apply, training only


class Example(TypedDict, total=False):
    """One element of a Batch."""

    name: str
    volume: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    height: np.ndarray
    scan: np.int64
    augmentation: dict[str, np.ndarray]
