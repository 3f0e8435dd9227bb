"""Antialiased resampling of a volume in HU to the 8-bit volume that is stored.

If the target is coarser, each target voxel is the exact mean over the box that it covers; if it is
finer, it is interpolated linearly. Both are the overlap of two boxes, applied axis by axis.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from multi_abnormality.data.io.read import Volume
from multi_abnormality.data.preprocessing.quantization import STEPS_PER_HU, Recipe, encoding_table
from multi_abnormality.utils.errors import UnusableScan

SPACING_STEP = 2**-16  # mm
BLOCK_VOXELS = 1 << 21  # resampled together
MIN_SLICES = 8  # of a block: a volume that is stored along z is read in parts of cache lines
CACHE_LINE = 16  # float32
NEGLIGIBLE = 1e-6  # fraction of a voxel below which an overlap is a rounding error


def resample_and_quantize(volume: Volume, recipe: Recipe) -> np.ndarray:
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

    @cached_property
    def bands(self) -> list[tuple[slice, np.ndarray]]:
        """Of each target voxel: the source voxels that it covers, and their weights."""
        bands = []
        for row in self.weights:
            used = np.flatnonzero(row)
            terms = slice(int(used[0]), int(used[-1]) + 1)
            bands.append((terms, row[terms]))
        return bands


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

    Only the part of the volume that the target covers is read, some slices at a time.
    """
    z, y, x = axes
    region = hu[z.source, y.source, x.source]
    _, height, width = region.shape
    at_once = min(len(region), max(MIN_SLICES, BLOCK_VOXELS // (height * width)))
    # In (Z, Y, X) order, which numpy would not choose for every volume. Rows that are a power of
    # two of bytes apart share few lines of the cache: they are three times as slow to transpose.
    block = np.empty((at_once, height, width), np.float32)
    rows = np.empty((at_once, len(y.weights), width + CACHE_LINE), np.float32)[:, :, :width]
    columns = np.empty((at_once, width, len(y.weights)), np.float32)
    small = np.empty((at_once, len(x.weights), len(y.weights)), np.float32)
    mean = np.zeros((len(z.weights), *small.shape[1:]), np.float32)
    for start in range(0, len(region), at_once):
        part = region[start : start + at_once]
        count = len(part)
        np.clip(part, low, high, out=block[:count], casting="same_kind")
        _sum_rows(y.bands, block[:count], rows[:count])
        columns[:count] = rows[:count].transpose(0, 2, 1)
        _sum_rows(x.bands, columns[:count], small[:count])
        for index, plane in enumerate(small[:count], start=start):
            for target in np.flatnonzero(z.weights[:, index]):
                mean[target] += z.weights[target, index] * plane
    return mean


def _sum_rows(bands: list[tuple[slice, np.ndarray]], source: np.ndarray, out: np.ndarray) -> None:
    """Set each row of `out` to the weighted sum of a band of rows, in their order.

    A matrix product of BLAS rounds as the processor does; without `optimize`, einsum adds one row
    after the other.
    """
    for target, (terms, weights) in enumerate(bands):
        np.einsum("k,zkx->zx", weights, source[:, terms], out=out[:, target])
