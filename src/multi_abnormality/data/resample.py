"""A volume in HU to the small 8-bit volume that is stored.

Antialiased: where the target is coarser, each target voxel is the exact mean over the box that
it covers; where it is finer, linear interpolation. Both are one rule, the overlap of two boxes,
applied one axis after the other.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from multi_abnormality.data.codes import STEPS_PER_HU, encoding_table
from multi_abnormality.data.io.read import Volume
from multi_abnormality.errors import UnusableScan

if TYPE_CHECKING:
    from multi_abnormality.params_preprocess import Recipe

SPACING_STEP = 2**-16  # mm
SLICES_AT_ONCE = 16  # copied together, so that a volume stored along z is not read 16 times
NEGLIGIBLE = 1e-6  # share of a voxel below which an overlap is rounding


def standardize(volume: Volume, recipe: "Recipe") -> np.ndarray:
    """Resample onto the recipe's grid about the volume's centre, and pack into 8 bits.

    HU are clipped to the recipe's range before any averaging: metal of 20000 HU or padding would
    bleed into its neighbours otherwise. What lies outside the volume is air, code 0.
    The same voxels give the same bytes whichever way their file was oriented, since all sums run
    in (Z, Y, X) order.

    Returns:
        recipe.shape uint8, (Z, Y, X).

    Raises:
        UnusableScan: the volume is smaller than a voxel of the recipe.
    """
    grid = zip(volume.hu.shape, volume.spacing, recipe.shape, recipe.spacing, strict=True)
    z, y, x = axes = [_axis(*one) for one in grid]
    mean_hu = _average(volume.hu, axes, recipe.hu_codes[0][0], recipe.hu_codes[-1][0])
    codes = np.zeros(recipe.shape, np.uint8)
    table = encoding_table(recipe)
    for index, plane in enumerate(mean_hu, start=z.target.start):
        steps = (plane - recipe.hu_codes[0][0]) * STEPS_PER_HU + 0.5
        codes[index, y.target, x.target] = table[steps.astype(np.intp)].T
    return codes


@dataclass(frozen=True)
class _Axis:
    """Which source voxels make which target voxels along one axis, and by what share."""

    source: slice
    target: slice  # those whose centre lies within the source
    weights: np.ndarray  # (target, source) float32, each row's sum is 1


def _axis(source_count: int, source_mm: float, target_count: int, target_mm: float) -> _Axis:
    centres = (np.arange(target_count) - (target_count - 1) / 2) * target_mm
    # Headers hold float32, so two orientations of a scan can differ in the seventh digit. Binary
    # steps, since decimal ones split such pairs where a spacing (360/512 mm) lies at a tie.
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
    """Weighted means, float32, in (Z, X, Y) order: each axis is summed along contiguous rows.

    Only the part of the volume that the target covers is read, and of it a few slices at a time
    are copied.
    """
    from scipy.sparse import csr_array  # 0.2 s that `--help` need not wait for

    z, y, x = axes
    rows, columns = csr_array(y.weights), csr_array(x.weights)
    region = hu[z.source, y.source, x.source]
    mean = np.zeros((len(z.weights), len(x.weights), len(y.weights)), np.float32)
    for start in range(0, len(region), SLICES_AT_ONCE):
        part = region[start : start + SLICES_AT_ONCE]
        # An output of its own keeps (Z, Y, X) order in memory; numpy would keep the input's.
        block = np.clip(part, low, high, out=np.empty(part.shape, part.dtype))
        for index, plane in enumerate(block, start=start):
            small = columns @ (rows @ plane.astype(np.float32)).T
            for target in np.flatnonzero(z.weights[:, index]):
                mean[target] += z.weights[target, index] * small
    return mean
