"""Findings of the lung's frame: septal lines and scars."""

from dataclasses import dataclass

import numpy as np

from multi_abnormality.sample.anatomy import Subject
from multi_abnormality.sample.canvas import Canvas, ramp
from multi_abnormality.sample.fields import Field
from multi_abnormality.sample.lesions.airspace import lung_box
from multi_abnormality.sample.strokes import Ellipsoid, Stroke, Tube

# Three directions across the slice, 60 degrees apart, and a slant along z: their planes cut the
# lung into polygons of about a secondary lobule's size.
PLANES = ((1.0, 0.0, 0.22), (0.5, 0.866025, -0.18), (-0.5, 0.866025, 0.12))


@dataclass(frozen=True)
class Septa:
    """Thick walls between lobules: a net of lines that reaches the pleura, densest at the base."""

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
        x, y, z = canvas.places(box)
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


def scars(subject: Subject) -> list[Stroke]:
    """Fibrotic bands drawn in from the pleura, a pleural cap, small cysts pulled open."""
    stream = subject.stream("scars")
    strokes: list[Stroke] = []
    first = stream.side()
    for side in (first, -first)[: 2 if stream.chance(0.75) else 1]:
        low, high = (25, 92) if stream.chance(0.85) else (-150, 40)
        anchor = subject.lung_points(stream, side, 1, low, high, 2.0)[0]
        x, y, z = anchor
        cap = stream.uniform(14, 24), stream.uniform(14, 24), stream.uniform(12, 20)
        strokes.append(Ellipsoid(anchor, cap, stream.uniform(0, 60), clip="lung", share=0.85))
        for _ in range(stream.integer(8, 13)):
            dx, dy, dz = stream.direction()
            reach = stream.uniform(26, 50)
            end = x + reach * dx, y + reach * dy, z + 0.8 * reach * dz
            width = stream.uniform(2.8, 4.2)
            strokes.append(Tube(anchor, end, width, 1.8, stream.uniform(0, 60), clip="lung"))
        for _ in range(stream.integer(1, 4)):
            dx, dy, dz = stream.direction()
            size = stream.uniform(3, 5)
            place = x + 14 * dx, y + 14 * dy, z + 12 * dz
            strokes.append(Ellipsoid(place, (size, size, size), -960.0, clip="lung"))
    return strokes
