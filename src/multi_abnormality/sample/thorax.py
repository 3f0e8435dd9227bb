"""The shape of the chest: body outline, chest wall, diaphragm, lungs."""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

# z, then half-width, half-depth and y of the centre of the space inside the ribs, and how far from
# the midline its front and back are flat, mm.
CAVITY = (
    (-260.0, 138.0, 90.0, 0.0, 26.0),
    (-190.0, 141.0, 93.0, 0.0, 26.0),
    (-100.0, 143.0, 95.0, 0.0, 28.0),
    (-40.0, 138.0, 92.0, 0.0, 30.0),
    (0.0, 130.0, 84.0, 2.0, 34.0),
    (40.0, 114.0, 70.0, 7.0, 40.0),
    (70.0, 97.0, 54.0, 13.0, 45.0),
    (90.0, 83.0, 38.0, 19.0, 48.0),
    (104.0, 70.0, 21.0, 23.0, 48.0),
    (112.0, 61.0, 8.0, 25.0, 48.0),
    (118.0, 56.0, 2.0, 25.0, 48.0),
    (260.0, 56.0, 2.0, 25.0, 48.0),
)
# z, then half-width and half-depth of the body without its fat, mm.
MUSCLE = (
    (-260.0, 158.0, 112.0),
    (-100.0, 163.0, 116.0),
    (0.0, 164.0, 114.0),
    (50.0, 166.0, 104.0),
    (90.0, 158.0, 92.0),
    (120.0, 128.0, 80.0),
    (150.0, 84.0, 70.0),
    (260.0, 70.0, 66.0),
)
DOME_X = 68.0  # mm from the midline to the top of each half of the diaphragm


def profile(table: tuple[tuple[float, ...], ...], z: float) -> tuple[float, ...]:
    """The table's row at height z, linear between its rows."""
    heights = [row[0] for row in table]
    above = min(max(bisect_right(heights, z), 1), len(table) - 1)
    low, high = table[above - 1], table[above]
    part = min(max((z - low[0]) / (high[0] - low[0]), 0.0), 1.0)
    return tuple(a + part * (b - a) for a, b in zip(low[1:], high[1:], strict=True))


def rows(table: tuple[tuple[float, ...], ...], z: np.ndarray) -> list[np.ndarray]:
    """`profile` at every height of z (Z, 1, 1): one (Z, 1, 1) array a column."""
    values = [profile(table, float(height)) for height in z.ravel()]
    return [np.array(column).reshape(-1, 1, 1) for column in zip(*values, strict=True)]


def rounded_box(
    x: np.ndarray, y: np.ndarray, flat: float | np.ndarray, wide: np.ndarray, deep: np.ndarray
) -> np.ndarray:
    """mm to an oval whose front and back are flat for `flat` mm on either side; below 0 inside."""
    across = np.maximum(np.abs(x) - flat, 0.0) / (wide - flat)
    along = y / deep
    share = np.sqrt(across * across + along * along) - 1.0
    distance: np.ndarray = share * np.minimum(wide - flat, deep)
    return distance


@dataclass(frozen=True)
class Thorax:
    """The tops of the two halves of the diaphragm, z in mm, and half the mediastinum's width."""

    right_dome: float
    left_dome: float
    mediastinum: float

    def cavity(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """mm to the inner chest wall, below 0 inside."""
        wide, deep, centre, flat = rows(CAVITY, z)
        return rounded_box(x, y - centre, flat, wide, deep)

    def dome(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Height of the diaphragm, z in mm, over each (x, y)."""
        top = np.where(x < 0, self.right_dome, self.left_dome)
        across, along = (np.abs(x) - DOME_X) / 74.0, (y + 8.0) / 88.0
        fall = np.where(across > 0, 60.0, 12.0)
        height: np.ndarray = top - fall * (across * across) - 64.0 * (along * along)
        return height

    def medial(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """mm into the mediastinum, above 0 inside; narrow in front, wide at the spine."""
        front = np.minimum(np.maximum((y + 80.0) / 70.0, 0.0), 1.0)
        apex = np.minimum(np.maximum((z - 40.0) / 60.0, 0.0), 1.0) * 6.0
        depth: np.ndarray = (self.mediastinum * (0.35 + 0.65 * front) + apex) - np.abs(x)
        return depth

    def lung(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """mm to the lungs' surface, below 0 inside; the heart is left out of account."""
        walls = np.maximum(self.cavity(x, y, z), self.medial(x, y, z))
        distance: np.ndarray = np.maximum(walls, self.dome(x, y) - z)
        return distance
