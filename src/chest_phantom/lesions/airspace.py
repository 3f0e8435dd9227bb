"""Findings of the air spaces: mosaic, emphysema, opacity, consolidation, nodules."""

from dataclasses import dataclass

import numpy as np

from chest_phantom.anatomy import Subject
from chest_phantom.canvas import Box, Canvas, Point, point, ramp
from chest_phantom.fields import Field
from chest_phantom.strokes import Ellipsoid, Stroke, Tube
from chest_phantom.trees import hilum


def lung_box(canvas: Canvas, high: float = 400.0) -> Box | None:
    """Return the voxels around both lungs up to a height."""
    return canvas.box((-145.0, -100.0, -400.0), (145.0, 102.0, high))


@dataclass(frozen=True)
class Mosaic:
    """Sharply bordered areas of darker and of lighter lung, balanced around its mean."""

    field: Field
    strength: float  # HU, from the mean to either side

    def paint(self, canvas: Canvas) -> None:
        box = lung_box(canvas)
        if box is not None:
            fraction = ramp((0.5 - self.field.at(canvas, box)) * 60.0, canvas.pixel + 2.0)
            canvas.hu[box] += canvas.lung[box] * ((2.0 * fraction - 1.0) * self.strength)


def mosaic(subject: Subject) -> list[Stroke]:
    stream = subject.stream("mosaic")
    cell = stream.uniform(30, 42)
    field = Field.draw(stream, (cell, cell, cell * 1.3))
    return [Mosaic(field, stream.uniform(90, 125))]


@dataclass(frozen=True)
class Holes:
    """Emphysema: small areas without walls where lung tissue is lost, mostly in the upper lung."""

    field: Field
    extent: float  # threshold of the field at the apex
    fade: float  # z, mm, below which little tissue is lost
    hu: float

    def paint(self, canvas: Canvas) -> None:
        box = lung_box(canvas)
        if box is not None:
            z = canvas.z[box[0]]
            cut = self.extent + np.maximum(self.fade - z, 0.0) / 330.0
            fraction = ramp((cut - self.field.at(canvas, box)) * 40.0, canvas.pixel)
            canvas.blend(box, fraction * canvas.lung[box], self.hu)


def emphysema(subject: Subject) -> list[Stroke]:
    stream = subject.stream("emphysema")
    field = Field.draw(stream, (stream.uniform(15, 21), stream.uniform(15, 21), 22.0))
    strokes: list[Stroke] = [
        Holes(field, stream.uniform(0.52, 0.6), stream.uniform(0, 50), stream.uniform(-990, -965))
    ]
    for _ in range(stream.integer(4, 8)):  # bullae under the pleura
        position = subject.lung_points(stream, stream.side(), 1, 20, 104, 3.0)[0]
        size = stream.uniform(10, 22)
        strokes.append(Ellipsoid(position, (size, size, size * 1.1), -985.0, clip="lung"))
    return strokes


@dataclass(frozen=True)
class Patch:
    """Ground glass: an ellipsoid with a ragged edge, in which vessels stay visible."""

    shape: Ellipsoid
    field: Field
    gain: float  # HU added in the middle
    edge: float  # mm

    def paint(self, canvas: Canvas) -> None:
        reach = (1.35 * radius + self.edge for radius in self.shape.radii)
        box = canvas.around(self.shape.centre, reach)
        if box is None:
            return
        ragged = (self.field.at(canvas, box) - 0.5) * (0.9 * min(self.shape.radii))
        distance = self.shape.distance(*canvas.coordinates(box)) + ragged
        fraction = ramp(distance, self.edge) * canvas.lung[box]
        canvas.hu[box] += fraction * self.gain


def opacity(subject: Subject) -> list[Stroke]:
    """Return three to six patches of ground glass."""
    stream = subject.scan_stream("opacity")
    field = Field.draw(stream, (13.0, 13.0, 16.0))
    strokes: list[Stroke] = []
    for _ in range(stream.integer(3, 6)):
        position = subject.lung_points(stream, stream.side(), 1, -150, 80, 8.0)[0]
        radii = point(stream.uniform(18, 36) for _ in range(3))
        shape = Ellipsoid(position, radii, 0.0)
        strokes.append(Patch(shape, field, stream.uniform(190, 310), stream.uniform(6, 12)))
    return strokes


@dataclass(frozen=True)
class Solid:
    """Lung filled to the density of tissue, with a ragged edge."""

    shape: Ellipsoid
    field: Field
    hu: float

    def paint(self, canvas: Canvas) -> None:
        box = canvas.around(self.shape.centre, (1.4 * radius for radius in self.shape.radii))
        if box is None:
            return
        ragged = (self.field.at(canvas, box) - 0.5) * (0.7 * min(self.shape.radii))
        distance = self.shape.distance(*canvas.coordinates(box)) + ragged
        canvas.blend(box, ramp(distance, canvas.pixel + 3.0) * canvas.lung[box], self.hu)


def consolidation(subject: Subject) -> list[Stroke]:
    """Return one to three filled segments with air bronchograms."""
    stream = subject.scan_stream("consolidation")
    field = Field.draw(stream, (11.0, 11.0, 13.0))
    strokes: list[Stroke] = []
    for _ in range(stream.integer(1, 3)):
        side = stream.side()
        position = subject.lung_points(stream, side, 1, -140, 40, 12.0)[0]
        radii = stream.uniform(30, 46), stream.uniform(30, 46), stream.uniform(30, 46)
        strokes.append(Solid(Ellipsoid(position, radii, 0.0), field, stream.uniform(10, 50)))
        root = hilum(side)
        near = _between(root, position, 0.55)
        for _ in range(stream.integer(5, 7)):
            end = point(
                c + 0.75 * r * d
                for c, r, d in zip(position, radii, stream.direction(), strict=True)
            )
            strokes.append(Tube(_between(near, position, 0.6), end, 3.8, 3.0, -920.0, clip="lung"))
    return strokes


def _between(a: Point, b: Point, part: float) -> Point:
    return point(p + part * (q - p) for p, q in zip(a, b, strict=True))


def nodules(subject: Subject) -> list[Stroke]:
    """Return five to eleven nodules, smooth or lobed, some calcified."""
    stream = subject.stream("nodules")
    growth = subject.scan_stream("nodule growth").uniform(0.95, 1.1)
    strokes: list[Stroke] = []
    for _ in range(stream.integer(5, 11)):
        radius = stream.uniform(6.0, 12.0) * growth
        position = subject.lung_points(stream, stream.side(), 1, -170, 95, radius + 2.0)[0]
        hu = stream.uniform(200, 500) if stream.chance(0.15) else stream.uniform(20, 90)
        strokes.append(Ellipsoid(position, (radius, radius, radius), hu))
        for _ in range(stream.integer(0, 3)):
            lobe = point(
                c + 0.6 * radius * d for c, d in zip(position, stream.direction(), strict=True)
            )
            strokes.append(Ellipsoid(lobe, (0.6 * radius,) * 3, hu))
    return strokes
