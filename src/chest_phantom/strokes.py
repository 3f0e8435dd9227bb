"""Shapes that can be painted onto a canvas: ellipsoids and tubes."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np

from chest_phantom.canvas import Canvas, Point, mean_of_steps, point, ramp

Clip = Literal["lung", "cavity"] | None


class Stroke(Protocol):
    """A shape that can be painted."""

    def paint(self, canvas: Canvas) -> None: ...


def clip_fraction(
    canvas: Canvas, box: tuple[slice, slice, slice], clip: Clip
) -> np.ndarray | float:
    """Return the fraction of each voxel that a shape may fill: all, its lung, or the chest."""
    if clip == "lung":
        return canvas.lung[box]
    if clip == "cavity":
        return ramp(canvas.cavity[box], canvas.pixel)
    return 1.0


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid that may be rotated about z."""

    centre: Point
    radii: Point
    hu: float
    clip: Clip = None
    turn: tuple[float, float] = (1.0, 0.0)  # (cosine, sine) of the rotation
    edge: float = 0.0  # mm, width of the soft edge
    opacity: float = 1.0

    def half_widths(self) -> Point:
        (a, b, c), (cos, sin) = self.radii, self.turn
        return (
            math.sqrt(a * a * cos * cos + b * b * sin * sin),
            math.sqrt(a * a * sin * sin + b * b * cos * cos),
            c,
        )

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the approximate distance to the surface, mm, negative inside."""
        (cx, cy, cz), (a, b, c), (cos, sin) = self.centre, self.radii, self.turn
        dx, dy, dz = x - cx, y - cy, (z - cz) / c
        u, v = (dx * cos + dy * sin) / a, (dy * cos - dx * sin) / b
        return (np.sqrt((u * u + v * v) + dz * dz) - 1.0) * min(a, b, c)

    def paint(self, canvas: Canvas) -> None:
        width = max(self.edge, canvas.pixel)
        box = canvas.around(self.centre, (half + width / 2 for half in self.half_widths()))
        if box is None:
            return
        if min(self.radii) < 3 * canvas.thickness:
            x, y, z, steps = canvas.fine_coordinates(box)
            fraction = mean_of_steps(ramp(self.distance(x, y, z), width), steps)
        else:
            fraction = ramp(self.distance(*canvas.coordinates(box)), width)
        fraction *= clip_fraction(canvas, box, self.clip) * self.opacity
        canvas.blend(box, fraction, self.hu)


@dataclass(frozen=True)
class Tube:
    """A straight tube with round ends and linearly changing radius."""

    start: Point
    end: Point
    radius: float
    end_radius: float
    hu: float
    clip: Clip = None

    def paint(self, canvas: Canvas) -> None:
        reach = max(self.radius, self.end_radius) + canvas.pixel
        low = point(min(a, b) - reach for a, b in zip(self.start, self.end, strict=True))
        high = point(max(a, b) + reach for a, b in zip(self.start, self.end, strict=True))
        box = canvas.box(low, high)
        if box is None:
            return
        x, y, z, steps = canvas.fine_coordinates(box)
        fraction = mean_of_steps(ramp(self.distance(x, y, z), canvas.pixel), steps)
        # A tube thinner than a voxel does not fill one: the ramp alone would draw it too thick.
        thin = min(1.0, (self.radius + self.end_radius) / canvas.pixel)
        fraction *= clip_fraction(canvas, box, self.clip) * thin
        canvas.blend(box, fraction, self.hu)

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        ax, ay, az = (b - a for a, b in zip(self.start, self.end, strict=True))
        squared = max(ax * ax + ay * ay + az * az, 1e-6)
        dx, dy, dz = x - self.start[0], y - self.start[1], z - self.start[2]
        along = (dx * (ax / squared) + dy * (ay / squared)) + dz * (az / squared)
        np.maximum(along, 0.0, out=along)
        np.minimum(along, 1.0, out=along)
        px, py, pz = dx - along * ax, dy - along * ay, dz - along * az
        grown = self.end_radius - self.radius
        return np.sqrt((px * px + py * py) + pz * pz) - (self.radius + grown * along)


def tubes(points: list[Point], radius: float, hu: float) -> list[Tube]:
    """Return a chain of tubes through `points`."""
    return [Tube(a, b, radius, radius, hu) for a, b in pairwise(points)]
