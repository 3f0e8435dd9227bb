"""Return type of all readers, and their size limits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from multi_abnormality.utils.errors import UnusableScan

# Checked before memory is allocated: a header of 1 KB may promise terabytes. The limit is 1,716
# slices of 512x512, as int16 (0.9 GB) or, if values are fractional, float32 (1.8 GB).
MAX_VOXELS = 450_000_000
MAX_PLANE_VOXELS = 1 << 24  # 4096x4096: planes are read one at a time

SYNTHETIC = "synthetic"  # note of a scan that a program generated


@dataclass(frozen=True, eq=False)
class Scan:
    """The voxels of one scan in the axis order of its file."""

    hu: np.ndarray  # (I, J, K) int16 or float32, HU, at least -1024
    affine: np.ndarray  # (4, 4) float64, mm, from voxel indices (i, j, k) to RAS+ coordinates
    # Unusual properties that were handled, such as "padding"; listed in the manifest.
    notes: tuple[str, ...] = ()
    release: str = "v2"  # CT-RATE release that the file follows: v1 (raw values, blank header) | v2
    slice_axis: int | None = None  # index of the slice axis, if the format defines it


def check_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape of a 3D scan without further axes of length 1.

    Args:
        shape: number of voxels along each axis, fastest axis first.

    Raises:
        UnusableScan: not three axes of at least 2 voxels, or more than MAX_VOXELS.
    """
    if len(shape) < 3 or min(shape[:3]) < 2 or any(length != 1 for length in shape[3:]):
        raise UnusableScan(
            f"has shape {tuple(shape)}, not that of one 3D scan; "
            "give a single volume with every slice in it",
            "not one 3D scan",
        )
    lengths = (int(shape[0]), int(shape[1]), int(shape[2]))
    if math.prod(lengths) > MAX_VOXELS or lengths[0] * lengths[1] > MAX_PLANE_VOXELS:
        raise UnusableScan(
            f"has shape {lengths}: more than the limit of {MAX_VOXELS:,} voxels, "
            f"{MAX_PLANE_VOXELS:,} a plane; resample it, or crop it to the chest",
            "too large",
        )
    return lengths
