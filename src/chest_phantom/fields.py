"""Smooth random fields over the body frame, for the texture of patchy disease."""

from dataclasses import dataclass

import numpy as np

from chest_phantom.canvas import Box, Canvas
from chest_phantom.random_streams import Stream

EXTENT = ((-190.0, 190.0), (-130.0, 140.0), (-240.0, 170.0))  # x, y, z, mm


def _knots(
    positions: np.ndarray, low: float, cell: float, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lattice index below each position, and the smoothed fraction to the next."""
    along = np.minimum(np.maximum((positions.ravel() - low) / cell, 0.0), size - 1.001)
    below = np.floor(along)
    part = along - below
    return below.astype(np.int64), part * part * (3.0 - 2.0 * part)


@dataclass(frozen=True)
class Field:
    """Random values from 0 to 1 on a lattice, interpolated smoothly."""

    lattice: np.ndarray  # (Z, Y, X) float64
    cells: tuple[float, float, float]  # (x, y, z), mm

    @classmethod
    def draw(cls, stream: Stream, cells: tuple[float, float, float]) -> "Field":
        sizes = [
            int((high - low) / cell) + 2 for (low, high), cell in zip(EXTENT, cells, strict=True)
        ]
        return cls(stream.bytes(tuple(reversed(sizes))) / 255.0, cells)

    def at(self, canvas: Canvas, box: Box) -> np.ndarray:
        """Evaluate the field in a box of the canvas: (Z, Y, X) float64."""
        values = self.lattice
        for axis, positions in enumerate(reversed(canvas.coordinates(box))):
            low, cell = EXTENT[2 - axis][0], self.cells[2 - axis]
            below, part = _knots(positions, low, cell, self.lattice.shape[axis])
            near, far = values.take(below, axis), values.take(below + 1, axis)
            shape = [1, 1, 1]
            shape[axis] = -1
            values = near + part.reshape(shape) * (far - near)
        return values
