"""The voxels being drawn, with their places in millimetres, and soft-edged blending.

The body frame: x to the patient's left, y to the back, z to the head, in mm of a standard
patient, origin between the lungs at the height of the carina. Only + - * / sqrt, comparisons and
rounding touch the arrays: IEEE fixes their bits, so every processor draws the same scan.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

Point = tuple[float, float, float]  # (x, y, z), mm in the body frame
Box = tuple[slice, slice, slice]  # (z, y, x) voxels

FAR = 1000.0  # mm: a distance outside of everything
FINE_STEP = 3.6  # mm: small shapes are sampled at least this densely along z


def point(coordinates: Iterable[float]) -> Point:
    x, y, z = coordinates
    return x, y, z


def ramp(distance: np.ndarray, width: float) -> np.ndarray:
    """Share of a voxel inside a shape: 1 within, 0 without, linear over `width` mm between."""
    share = 0.5 - distance / width
    np.maximum(share, 0.0, out=share)
    return np.minimum(share, 1.0, out=share)


@dataclass
class Canvas:
    """A slab of slices.

    x, y, z: centres of the voxels, (1, 1, X), (1, Y, 1), (Z, 1, 1), mm in the body frame, rising.
    pixel: in-plane voxel width, mm. thickness: slice distance, mm.
    hu: (Z, Y, X) float64. lung: share of lung in each voxel. cavity: mm to the chest's inner
    wall, below 0 inside. dome: mm above the diaphragm.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    pixel: float
    thickness: float
    hu: np.ndarray = field(init=False)
    lung: np.ndarray = field(init=False)
    cavity: np.ndarray = field(init=False)
    dome: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        shape = self.z.size, self.y.size, self.x.size
        self.hu = np.full(shape, -1000.0)
        self.lung = np.zeros(shape)
        self.cavity = np.full(shape, FAR)
        self.dome = np.full(shape, -FAR)

    def box(self, low: Point, high: Point) -> Box | None:
        """The voxels that a shape between two corners can touch; None where it misses the slab."""
        slices = []
        for axis, margin, a, b in (
            (self.z, self.thickness, low[2], high[2]),
            (self.y, self.pixel, low[1], high[1]),
            (self.x, self.pixel, low[0], high[0]),
        ):
            first, step = float(axis.flat[0]), margin
            start = max(0, math.ceil((a - step - first) / step))
            stop = min(axis.size, math.floor((b + step - first) / step) + 1)
            if start >= stop:
                return None
            slices.append(slice(start, stop))
        z, y, x = slices
        return z, y, x

    def around(self, centre: Point, reach: Iterable[float]) -> Box | None:
        """The same for a shape about a centre: mm to either side along x, y and z."""
        away = tuple(reach)
        low = point(c - r for c, r in zip(centre, away, strict=True))
        high = point(c + r for c, r in zip(centre, away, strict=True))
        return self.box(low, high)

    def places(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y, z of a box, broadcastable."""
        return self.x[:, :, box[2]], self.y[:, box[1]], self.z[box[0]]

    def fine_places(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """As `places`, with z in several steps a slice, and their number: for small shapes."""
        x, y, z = self.places(box)
        steps = math.ceil(self.thickness / FINE_STEP)
        offsets = [((i + 0.5) / steps - 0.5) * self.thickness for i in range(steps)]
        fine = (z[:, 0, 0][:, None] + np.array(offsets)[None, :]).reshape(-1, 1, 1)
        return x, y, fine, steps

    def blend(self, box: Box, share: np.ndarray, hu: float | np.ndarray) -> None:
        """Fill `share` (0 to 1) of each voxel of a box with matter of `hu`."""
        part = self.hu[box]
        part += share * (hu - part)


def mean_of_steps(fine: np.ndarray, steps: int) -> np.ndarray:
    """Average every `steps` neighbours along z, in a fixed order."""
    if steps == 1:
        return fine
    total = fine[0::steps].copy()
    for start in range(1, steps):
        total += fine[start::steps]
    return total / steps
