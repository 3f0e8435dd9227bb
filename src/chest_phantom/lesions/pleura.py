"""Pleural effusion and atelectasis."""

from dataclasses import dataclass

import numpy as np

from chest_phantom.anatomy import Subject
from chest_phantom.canvas import Canvas, ramp
from chest_phantom.lesions.airspace import lung_box
from chest_phantom.random_streams import Stream
from chest_phantom.strokes import Ellipsoid, Stroke, Tube


@dataclass(frozen=True)
class Fluid:
    """A crescent at the back of one pleural space, thickest at the bottom and the back."""

    side: float
    thickness: float  # mm, largest
    top: float  # z, mm
    hu: float

    def paint(self, canvas: Canvas) -> None:
        box = lung_box(canvas, high=self.top + 20.0)
        if box is None:
            return
        x, y, z = canvas.coordinates(box)
        back = np.minimum(np.maximum((y + 5.0) / 75.0, 0.0), 1.0)
        low = np.minimum(np.maximum((self.top - z) / 90.0, 0.0), 1.0)
        depth = (self.thickness * back) * (low * (2.0 - low))
        fraction = ramp(-canvas.cavity[box] - depth, canvas.pixel + 1.0) * (depth > 1.0)
        fraction *= canvas.lung[box] * (x * self.side > 0)
        canvas.blend(box, fraction, self.hu)


def effusion(subject: Subject) -> list[Stroke]:
    stream = subject.scan_stream("effusion")
    sides = stream.pick(((-1.0,), (1.0,), (-1.0, 1.0), (-1.0, 1.0)))
    return [
        Fluid(side, stream.uniform(14, 34), stream.uniform(-40, 40), stream.uniform(0, 22))
        for side in sides
    ]


@dataclass(frozen=True)
class Plate:
    """A flat, slightly slanted sheet of airless lung."""

    centre: tuple[float, float, float]
    half: tuple[float, float]  # mm along x and y
    slant: tuple[float, float]  # rise along x and along y
    thickness: float  # mm
    hu: float

    def paint(self, canvas: Canvas) -> None:
        cx, cy, cz = self.centre
        rise = abs(self.slant[0]) * self.half[0] + abs(self.slant[1]) * self.half[1] + 8.0
        box = canvas.around(self.centre, (*self.half, rise))
        if box is None:
            return
        x, y, z = canvas.coordinates(box)
        u, v = (x - cx) / self.half[0], (y - cy) / self.half[1]
        height = np.abs(z - cz - ((x - cx) * self.slant[0] + (y - cy) * self.slant[1]))
        # The slope of the sheet blurs its edge in a slice; a thick slice contains part of it.
        blur = max(canvas.thickness, self.thickness)
        within = ramp(height - self.thickness / 2, blur)
        fraction = within * ramp(
            (np.sqrt(u * u + v * v) - 1.0) * min(self.half), canvas.pixel + 2.0
        )
        canvas.blend(box, fraction * canvas.lung[box], self.hu)


def atelectasis(subject: Subject) -> list[Stroke]:
    """Return plates above the diaphragm, or a wedge of collapsed lung at the back of the base."""
    stream = subject.scan_stream("atelectasis")
    strokes: list[Stroke] = []
    first = stream.side()
    for side in (first, -first)[: 2 if stream.chance(0.6) else 1]:
        dome = subject.state.thorax.right_dome if side < 0 else subject.state.thorax.left_dome
        if stream.chance(0.35):
            strokes += _wedge(stream, side, dome)
            continue
        for step in range(stream.integer(2, 3)):
            position = side * stream.uniform(58, 98), stream.uniform(-35, 45)
            strokes.append(
                Plate(
                    centre=(*position, dome + 8 + 15 * step + stream.uniform(-5, 5)),
                    half=(stream.uniform(30, 48), stream.uniform(30, 48)),
                    slant=(stream.uniform(-0.7, 0.7), stream.uniform(0.35, 1.0)),
                    thickness=stream.uniform(6, 10),
                    hu=stream.uniform(0, 60),
                )
            )
    return strokes


def _wedge(stream: Stream, side: float, dome: float) -> list[Stroke]:
    """Return collapsed lung beside the spine, from the hilum down and back."""
    hu = stream.uniform(40, 75)
    top = (side * 36.0, 42.0, dome + stream.uniform(40, 70))
    foot = (side * stream.uniform(48, 62), 66.0, dome - 30.0)
    return [
        Tube(top, foot, 5.0, stream.uniform(15, 20), hu, clip="lung"),
        Ellipsoid(foot, (30.0, 12.0, 34.0), hu, clip="lung", turn=(0.857493, side * 0.514496)),
    ]
