"""Shapes that paint themselves onto a canvas: ellipsoids and tubes."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np

from multi_abnormality.sample.canvas import Canvas, Point, mean_of_steps, point, ramp

Clip = Literal["lung", "cavity"] | None


class Stroke(Protocol):
    """Anything that can be painted."""

    def paint(self, canvas: Canvas) -> None: ...


def clip_share(canvas: Canvas, box: tuple[slice, slice, slice], clip: Clip) -> np.ndarray | float:
    """How much of each voxel a shape may fill: all, its lung, or what lies inside the chest."""
    if clip == "lung":
        return canvas.lung[box]
    if clip == "cavity":
        return ramp(canvas.cavity[box], canvas.pixel)
    return 1.0


@dataclass(frozen=True)
class Ellipsoid:
    """`turn` is (cosine, sine) of a rotation about z; `edge` the softness of its rim in mm.

    share: how much of its inside it fills.
    """

    centre: Point
    radii: Point
    hu: float
    clip: Clip = None
    turn: tuple[float, float] = (1.0, 0.0)
    edge: float = 0.0
    share: float = 1.0

    def half_widths(self) -> Point:
        (a, b, c), (cos, sin) = self.radii, self.turn
        return (
            math.sqrt(a * a * cos * cos + b * b * sin * sin),
            math.sqrt(a * a * sin * sin + b * b * cos * cos),
            c,
        )

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """mm to the surface, nearly; below 0 inside."""
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
            x, y, z, steps = canvas.fine_places(box)
            share = mean_of_steps(ramp(self.distance(x, y, z), width), steps)
        else:
            share = ramp(self.distance(*canvas.places(box)), width)
        share *= clip_share(canvas, box, self.clip) * self.share
        canvas.blend(box, share, self.hu)


@dataclass(frozen=True)
class Tube:
    """A rounded stick from `start` to `end`, its radius changing evenly between them."""

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
        x, y, z, steps = canvas.fine_places(box)
        share = mean_of_steps(ramp(self.distance(x, y, z), canvas.pixel), steps)
        # A tube thinner than a voxel fills no voxel: its ramp alone would draw it too thick.
        thin = min(1.0, (self.radius + self.end_radius) / canvas.pixel)
        share *= clip_share(canvas, box, self.clip) * thin
        canvas.blend(box, share, self.hu)

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
    """A bent tube through `points`."""
    return [Tube(a, b, radius, radius, hu) for a, b in pairwise(points)]
