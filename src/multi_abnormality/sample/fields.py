"""Smooth random fields over the body frame: the grain of patchy disease."""

from dataclasses import dataclass

import numpy as np

from multi_abnormality.sample.canvas import Box, Canvas
from multi_abnormality.sample.streams import Stream

EXTENT = ((-190.0, 190.0), (-130.0, 140.0), (-240.0, 170.0))  # x, y, z, mm


def _knots(places: np.ndarray, low: float, cell: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Index of the lattice point below each place, and how far on to the next (smoothed)."""
    along = np.minimum(np.maximum((places.ravel() - low) / cell, 0.0), size - 1.001)
    below = np.floor(along)
    part = along - below
    return below.astype(np.int64), part * part * (3.0 - 2.0 * part)


@dataclass(frozen=True)
class Field:
    """Values from 0 to 1, drawn on a lattice of `cells` (x, y, z) mm and smooth between."""

    lattice: np.ndarray  # (Z, Y, X) float64
    cells: tuple[float, float, float]

    @classmethod
    def draw(cls, stream: Stream, cells: tuple[float, float, float]) -> "Field":
        sizes = [
            int((high - low) / cell) + 2 for (low, high), cell in zip(EXTENT, cells, strict=True)
        ]
        return cls(stream.bytes(tuple(reversed(sizes))) / 255.0, cells)

    def at(self, canvas: Canvas, box: Box) -> np.ndarray:
        """(Z, Y, X) float64 for a box of the canvas."""
        values = self.lattice
        for axis, places in enumerate(reversed(canvas.places(box))):
            low, cell = EXTENT[2 - axis][0], self.cells[2 - axis]
            below, part = _knots(places, low, cell, self.lattice.shape[axis])
            near, far = values.take(below, axis), values.take(below + 1, axis)
            shape = [1, 1, 1]
            shape[axis] = -1
            values = near + part.reshape(shape) * (far - near)
        return values
