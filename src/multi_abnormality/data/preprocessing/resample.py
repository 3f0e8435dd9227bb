"""Antialiased resampling of a volume in HU to the 8-bit volume that is stored.

If the target is coarser, each target voxel is the exact mean over the box that it covers; if it is
finer, it is interpolated linearly. Both are the overlap of two boxes, applied axis by axis.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from multi_abnormality.data.io.read import Volume
from multi_abnormality.data.preprocessing.quantization import STEPS_PER_HU, encoding_table
from multi_abnormality.utils.errors import UnusableScan

if TYPE_CHECKING:
    from multi_abnormality.config.schema import PreprocessSpec

SPACING_STEP = 2**-16  # mm
SLICES_AT_ONCE = 16  # copied together, so that a volume stored along z is not read 16 times
NEGLIGIBLE = 1e-6  # fraction of a voxel below which an overlap is a rounding error


def resample_and_quantize(volume: Volume, recipe: "PreprocessSpec") -> np.ndarray:
    """Resample onto the recipe's grid around the volume's centre, and quantize to 8 bits.

    HU are clipped to the recipe's range before averaging, or metal of 20000 HU and padding would
    bleed into neighbouring voxels. Outside the volume is air, code 0.
    All sums run in (Z, Y, X) order, so the bytes do not depend on the orientation of the file.

    Returns:
        (Z, Y, X) uint8 of the recipe's shape.

    Raises:
        UnusableScan: the volume is smaller than a voxel of the recipe.
    """
    grid = zip(volume.hu.shape, volume.spacing, recipe.shape, recipe.spacing, strict=True)
    z, y, x = axes = [_axis(*one) for one in grid]
    mean_hu = _average(volume.hu, axes, recipe.hu_to_uint8[0][0], recipe.hu_to_uint8[-1][0])
    codes = np.zeros(recipe.shape, np.uint8)
    table = encoding_table(recipe)
    for index, plane in enumerate(mean_hu, start=z.target.start):
        steps = (plane - recipe.hu_to_uint8[0][0]) * STEPS_PER_HU + 0.5
        codes[index, y.target, x.target] = table[steps.astype(np.intp)].T
    return codes


@dataclass(frozen=True)
class _Axis:
    """Weights from source voxels to target voxels along one axis."""

    source: slice
    target: slice  # voxels whose centre lies within the source
    weights: np.ndarray  # (target, source) float32, rows sum to 1


def _axis(source_count: int, source_mm: float, target_count: int, target_mm: float) -> _Axis:
    centres = (np.arange(target_count) - (target_count - 1) / 2) * target_mm
    # Headers hold float32, so two orientations of a scan can differ in the seventh digit. Steps are
    # binary, since decimal rounding separates such pairs if the spacing (360/512 mm) is a tie.
    source_mm = round(source_mm / SPACING_STEP) * SPACING_STEP
    half_extent = source_count * source_mm / 2
    inside = np.flatnonzero(np.abs(centres) <= half_extent + NEGLIGIBLE * source_mm)
    if not inside.size:
        raise UnusableScan(
            f"preprocess.spacing: voxels of {target_mm:g} mm are too large for a scan that covers "
            f"only {2 * half_extent:g} mm; give the whole scan or choose a finer spacing",
            "geometry",
        )
    edges = np.arange(source_count + 1) * source_mm - half_extent
    box = max(source_mm, target_mm) / 2
    low, high = centres[inside, None] - box, centres[inside, None] + box
    overlaps = np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1])
    overlaps[overlaps < NEGLIGIBLE * source_mm] = 0
    weights = overlaps / overlaps.sum(axis=1, keepdims=True)
    used = np.flatnonzero(weights.any(axis=0))
    source = slice(int(used[0]), int(used[-1]) + 1)
    return _Axis(
        source=source,
        target=slice(int(inside[0]), int(inside[-1]) + 1),
        weights=weights[:, source].astype(np.float32),
    )


def _average(hu: np.ndarray, axes: list[_Axis], low: int, high: int) -> np.ndarray:
    """Return weighted means, float32, (Z, X, Y): each axis is summed along contiguous rows.

    Only the part of the volume that the target covers is read, a few slices at a time.
    """
    from scipy.sparse import csr_array  # 0.2 s that `--help` need not wait for

    z, y, x = axes
    rows, columns = csr_array(y.weights), csr_array(x.weights)
    region = hu[z.source, y.source, x.source]
    mean = np.zeros((len(z.weights), len(x.weights), len(y.weights)), np.float32)
    for start in range(0, len(region), SLICES_AT_ONCE):
        part = region[start : start + SLICES_AT_ONCE]
        # A new output is in (Z, Y, X) order; numpy would keep the input's memory order.
        block = np.clip(part, low, high, out=np.empty(part.shape, part.dtype))
        for index, plane in enumerate(block, start=start):
            small = columns @ (rows @ plane.astype(np.float32)).T
            for target in np.flatnonzero(z.weights[:, index]):
                mean[target] += z.weights[target, index] * small
    return mean
