"""Canvas of voxels with coordinates in mm and soft-edged blending.

The body frame: x to the patient's left, y to the back, z to the head, in mm of a standard
patient, origin between the lungs at the height of the carina. Arrays are only changed by + - * /
sqrt, comparisons and rounding, which IEEE 754 defines exactly: every processor draws the same scan.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

Point = tuple[float, float, float]  # (x, y, z), mm in the body frame
Box = tuple[slice, slice, slice]  # (z, y, x) voxels

FAR = 1000.0  # mm: larger than any distance
FINE_STEP = 3.6  # mm: largest sampling step of small shapes along z


def point(coordinates: Iterable[float]) -> Point:
    x, y, z = coordinates
    return x, y, z


def ramp(distance: np.ndarray, width: float) -> np.ndarray:
    """Return the fraction of a voxel inside a shape: linear over `width` mm around distance 0."""
    fraction = 0.5 - distance / width
    np.maximum(fraction, 0.0, out=fraction)
    return np.minimum(fraction, 1.0, out=fraction)


@dataclass
class Canvas:
    """A slab of slices.

    Attributes:
        x: centres of the voxels, (1, 1, X), mm in the body frame, ascending.
        y: likewise, (1, Y, 1).
        z: likewise, (Z, 1, 1).
        pixel: in-plane voxel width, mm.
        thickness: slice distance, mm.
        hu: (Z, Y, X) float64.
        lung: fraction of lung in each voxel.
        cavity: mm to the inner chest wall, negative inside.
        dome: mm above the diaphragm.
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
        """Return the voxels that a shape between two corners can touch; None if there are none."""
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
        """Return the box of a shape with a centre and half-widths along x, y and z, mm."""
        away = tuple(reach)
        low = point(c - r for c, r in zip(centre, away, strict=True))
        high = point(c + r for c, r in zip(centre, away, strict=True))
        return self.box(low, high)

    def coordinates(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return broadcastable x, y and z of a box."""
        return self.x[:, :, box[2]], self.y[:, box[1]], self.z[box[0]]

    def fine_coordinates(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Return `coordinates` with several z steps per slice, and the number of steps."""
        x, y, z = self.coordinates(box)
        steps = math.ceil(self.thickness / FINE_STEP)
        offsets = [((i + 0.5) / steps - 0.5) * self.thickness for i in range(steps)]
        fine = (z[:, 0, 0][:, None] + np.array(offsets)[None, :]).reshape(-1, 1, 1)
        return x, y, fine, steps

    def blend(self, box: Box, fraction: np.ndarray, hu: float | np.ndarray) -> None:
        """Fill a fraction (0 to 1) of each voxel of a box with material of `hu`."""
        part = self.hu[box]
        part += fraction * (hu - part)


def mean_of_steps(fine: np.ndarray, steps: int) -> np.ndarray:
    """Average every `steps` neighbours along z, in a fixed order."""
    if steps == 1:
        return fine
    total = fine[0::steps].copy()
    for start in range(1, steps):
        total += fine[start::steps]
    return total / steps
