"""Findings of the interstitium: septal lines and scars."""

import math
from dataclasses import dataclass

import numpy as np

from chest_phantom.anatomy import Subject
from chest_phantom.canvas import Canvas, Point, point, ramp
from chest_phantom.fields import Field
from chest_phantom.lesions.airspace import lung_box
from chest_phantom.random_streams import Stream
from chest_phantom.strokes import Ellipsoid, Stroke, Tube
from chest_phantom.trees import hilum

# Three directions in the slice, 60 degrees apart, with a slant along z: their planes divide the
# lung into polygons of about the size of a secondary lobule.
PLANES = ((1.0, 0.0, 0.22), (0.5, 0.866025, -0.18), (-0.5, 0.866025, 0.12))


@dataclass(frozen=True)
class Septa:
    """Thick walls between lobules: a net of lines at the pleura, densest at the base."""

    warps: tuple[Field, ...]
    where: Field
    pitch: float  # mm between lines
    width: float  # mm
    depth: float  # mm from the pleura
    top: float  # z, mm, above which it fades
    hu: float

    def paint(self, canvas: Canvas) -> None:
        box = lung_box(canvas, high=self.top + 60.0)
        if box is None:
            return
        x, y, z = canvas.coordinates(box)
        nearest = np.full(canvas.hu[box].shape, self.pitch)
        for (a, b, c), warp in zip(PLANES, self.warps, strict=True):
            turn = (x * a + (y * b + z * c) + warp.at(canvas, box) * 16.0) / self.pitch
            np.minimum(nearest, np.abs(turn - np.rint(turn)) * self.pitch, out=nearest)
        line = ramp(nearest - self.width / 2, canvas.pixel)
        pleural = ramp(-canvas.cavity[box] - self.depth, 10.0) * ramp(z - self.top, 50.0)
        present = ramp((0.42 - self.where.at(canvas, box)) * 60.0, 12.0)
        canvas.blend(box, line * pleural * present * canvas.lung[box], self.hu)


def septal_lines(subject: Subject) -> list[Stroke]:
    stream = subject.scan_stream("septa")
    warps = tuple(Field.draw(stream, (26.0, 26.0, 40.0)) for _ in PLANES)
    where = Field.draw(stream, (60.0, 60.0, 70.0))
    return [
        Septa(
            warps=warps,
            where=where,
            pitch=stream.uniform(17, 22),
            width=stream.uniform(2.4, 3.6),
            depth=stream.uniform(26, 44),
            top=stream.uniform(-50, 30),
            hu=stream.uniform(-250, -60),
        )
    ]


@dataclass(frozen=True)
class PleuralCap:
    """A thick, ragged scar under the pleura."""

    centre: Point
    reach: float  # mm along the pleura
    depth: float  # mm into the lung
    field: Field
    hu: float

    def paint(self, canvas: Canvas) -> None:
        shape = Ellipsoid(self.centre, (self.reach,) * 3, 0.0)
        box = canvas.around(self.centre, shape.radii)
        if box is None:
            return
        ragged = self.depth * (0.4 + 1.2 * self.field.at(canvas, box))
        rind = ramp(-canvas.cavity[box] - ragged, canvas.pixel + 1.0)
        near = ramp(shape.distance(*canvas.coordinates(box)) + 8.0, 16.0)
        canvas.blend(box, rind * near * canvas.lung[box], self.hu)


def scars(subject: Subject) -> list[Stroke]:
    """Return fibrotic bands from the pleura towards the hilum, with a pleural cap and cysts."""
    stream = subject.stream("scars")
    field = Field.draw(stream, (11.0, 11.0, 14.0))
    strokes: list[Stroke] = []
    first = stream.side()
    for side in (first, -first)[: 2 if stream.chance(0.85) else 1]:
        low, high = (20, 85) if stream.chance(0.85) else (-150, 20)
        anchor = _near_pleura(subject, stream, side, low, high)
        reach, depth = stream.uniform(36, 54), stream.uniform(11, 18)
        strokes.append(PleuralCap(anchor, reach, depth, field, stream.uniform(10, 60)))
        for _ in range(stream.integer(7, 11)):
            start = point(c + stream.uniform(-24, 24) for c in anchor)
            width, hu = stream.uniform(2.8, 4.2), stream.uniform(0, 60)
            strokes.append(Tube(start, _inwards(stream, side, start), width, 1.8, hu, clip="lung"))
        for _ in range(stream.integer(2, 5)):
            size = stream.uniform(3, 5.5)
            position = point(c + stream.uniform(-16, 16) for c in anchor)
            strokes.append(Ellipsoid(position, (size, size, size), -960.0, clip="lung"))
    return strokes


def _near_pleura(subject: Subject, stream: Stream, side: float, low: float, high: float) -> Point:
    """Sample a position at the outer surface of the lung, away from the mediastinum."""
    positions = subject.lung_points(stream, side, 24, low, high, 1.0)
    return max(positions, key=lambda position: abs(position[0]) + 0.5 * position[1])


def _inwards(stream: Stream, side: float, start: Point) -> Point:
    """Sample the end of a band, 30 to 60 mm from its start, roughly towards the hilum."""
    part = stream.uniform(30, 60) / round(math.dist(start, hilum(side)), 9)
    return point(
        a + part * (b - a) + stream.uniform(-14, 14)
        for a, b in zip(start, hilum(side), strict=True)
    )
