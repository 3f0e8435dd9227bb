"""Shape of the chest: body outline, chest wall, diaphragm, lungs."""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

# Rows of z; half-width, half-depth and centre (y) of the space inside the ribs; and half-width of
# its flat front and back, mm.
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
# Rows of z; half-width and half-depth of the body without fat, mm.
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
    """Interpolate a table linearly at height z."""
    heights = [row[0] for row in table]
    above = min(max(bisect_right(heights, z), 1), len(table) - 1)
    low, high = table[above - 1], table[above]
    part = min(max((z - low[0]) / (high[0] - low[0]), 0.0), 1.0)
    return tuple(a + part * (b - a) for a, b in zip(low[1:], high[1:], strict=True))


def rows(table: tuple[tuple[float, ...], ...], z: np.ndarray) -> list[np.ndarray]:
    """Evaluate `profile` at heights (Z, 1, 1); return one (Z, 1, 1) array per column."""
    values = [profile(table, float(height)) for height in z.ravel()]
    return [np.array(column).reshape(-1, 1, 1) for column in zip(*values, strict=True)]


def rounded_box(
    x: np.ndarray, y: np.ndarray, flat: float | np.ndarray, wide: np.ndarray, deep: np.ndarray
) -> np.ndarray:
    """Return the distance, mm, to an oval with flat front and back, negative inside."""
    across = np.maximum(np.abs(x) - flat, 0.0) / (wide - flat)
    along = y / deep
    fraction = np.sqrt(across * across + along * along) - 1.0
    distance: np.ndarray = fraction * np.minimum(wide - flat, deep)
    return distance


@dataclass(frozen=True)
class Thorax:
    """Chest with the diaphragm and mediastinum of one scan, mm."""

    right_dome: float  # z of its top
    left_dome: float
    mediastinum: float  # half-width

    def cavity(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the distance to the inner chest wall, mm, negative inside."""
        wide, deep, centre, flat = rows(CAVITY, z)
        return rounded_box(x, y - centre, flat, wide, deep)

    def dome(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return z of the diaphragm, mm, at each (x, y)."""
        top = np.where(x < 0, self.right_dome, self.left_dome)
        across, along = (np.abs(x) - DOME_X) / 74.0, (y + 8.0) / 88.0
        fall = np.where(across > 0, 60.0, 12.0)
        height: np.ndarray = top - fall * (across * across) - 64.0 * (along * along)
        return height

    def medial(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the depth in the mediastinum, mm, positive inside; it is widest at the spine."""
        front = np.minimum(np.maximum((y + 80.0) / 70.0, 0.0), 1.0)
        apex = np.minimum(np.maximum((z - 40.0) / 60.0, 0.0), 1.0) * 6.0
        depth: np.ndarray = (self.mediastinum * (0.35 + 0.65 * front) + apex) - np.abs(x)
        return depth

    def lung(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the distance to the lungs' surface, mm, negative inside, ignoring the heart."""
        walls = np.maximum(self.cavity(x, y, z), self.medial(x, y, z))
        distance: np.ndarray = np.maximum(walls, self.dome(x, y) - z)
        return distance
