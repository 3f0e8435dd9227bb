"""Skeleton: spine, ribs, sternum, shoulder girdle."""

from dataclasses import dataclass

import numpy as np

from chest_phantom.anatomy import Subject
from chest_phantom.canvas import Box, Canvas, Point, ramp
from chest_phantom.strokes import Ellipsoid, Stroke, tubes
from chest_phantom.thorax import CAVITY, profile

VERTEBRA = 25.0  # mm between vertebrae
SPINE_Y = 74.0
RIB_PITCH = 26.0  # mm between ribs, along z
RIB_SLANT = 0.32  # mm that a rib falls per mm to the front


def bone_strokes(subject: Subject) -> list[Stroke]:
    stream = subject.stream("bones")
    bone, offset = subject.patient.bone, stream.uniform(0, RIB_PITCH)
    return [
        Spine(bone, stream.uniform(0, VERTEBRA)),
        Ribs(bone + 150, offset, 130.0 + (200 if subject.patient.calcified_cartilage else 0)),
        *_sternum(bone),
        *_girdle(bone),
    ]


def _sternum(bone: float) -> list[Stroke]:
    strokes: list[Stroke] = []
    for z in range(-62, 62, 22):
        y = _front(z) - 7.0
        strokes.append(Ellipsoid((0, y, z), (17, 6.5, 14), bone + 60))
    top = _front(62) - 8.0
    return [*strokes, Ellipsoid((0, top, 66), (27, 7, 15), bone + 60)]


def _front(z: float) -> float:
    """Return y of the inner front wall of the chest."""
    _, deep, centre, _ = profile(CAVITY, z)
    return centre - deep


def _girdle(bone: float) -> list[Stroke]:
    """Return clavicles and scapulae."""
    strokes: list[Stroke] = []
    for side in (-1.0, 1.0):
        collar: list[Point] = [(side * 26, -52, 76), (side * 75, -50, 92), (side * 128, -12, 112)]
        strokes += tubes(collar, 5.5, bone + 250)
        for edge in (92, 108, 124):
            top, tip = (side * edge, 84 - (edge - 92) * 0.7, 88), (side * (edge - 4), 92, 12)
            strokes += tubes([top, tip], 3.6, bone + 200)
    return strokes


@dataclass(frozen=True)
class Spine:
    """Vertebral bodies, discs, spinal canal, arches and spinous processes."""

    bone: float
    offset: float

    def paint(self, canvas: Canvas) -> None:
        box = canvas.box((-45, 50, -400), (45, 128, 400))
        if box is None:
            return
        x, y, z = canvas.coordinates(box)
        turn = (z + 400.0 + self.offset) / VERTEBRA
        middle = np.abs(turn - np.floor(turn) - 0.5) * VERTEBRA  # 0 in a body's middle
        body = ramp(middle - 9.5, canvas.thickness)
        u, v = x / 18.0, (y - SPINE_Y) / 15.0
        edge = (np.sqrt(u * u + v * v) - 1.0) * 15.0
        hu = 85.0 + body * (self.bone - 85.0)
        canvas.blend(box, ramp(edge, canvas.pixel), hu)
        shell = ramp(np.abs(edge + 1.2) - 1.2, canvas.pixel) * body
        canvas.blend(box, shell, self.bone + 250)
        self._arch(canvas, box, x, y, body)

    def _arch(
        self, canvas: Canvas, box: Box, x: np.ndarray, y: np.ndarray, body: np.ndarray
    ) -> None:
        canal = np.sqrt(x * x + (y - 98.0) * (y - 98.0))
        canvas.blend(box, ramp(canal - 14.0, canvas.pixel) * (0.35 + 0.65 * body), self.bone + 200)
        across = np.maximum(np.abs(x) - 24.0, np.abs(y - 103.0) - 3.0)
        canvas.blend(box, ramp(across, canvas.pixel) * body, self.bone + 150)
        behind = np.maximum(np.abs(x) - 3.5, np.abs(y - 114.0) - 10.0)
        canvas.blend(box, ramp(behind, canvas.pixel) * body, self.bone + 200)
        canvas.blend(box, ramp(canal - 8.5, canvas.pixel), 25.0)


@dataclass(frozen=True)
class Ribs:
    """A shell around the chest with slanted stripes of bone, and cartilage in front."""

    bone: float
    offset: float
    cartilage: float

    def paint(self, canvas: Canvas) -> None:
        box = canvas.box((-156, -112, -400), (156, 112, 104))
        if box is None:
            return
        cavity = canvas.cavity[box]
        x, y, z = canvas.coordinates(box)
        turn = (z - RIB_SLANT * y + 400.0 + self.offset) / RIB_PITCH
        stripe = np.abs(turn - np.floor(turn) - 0.5) * RIB_PITCH - 5.0
        fraction = ramp(np.abs(cavity - 6.5) - 3.4, canvas.pixel)
        fraction *= ramp(stripe, canvas.thickness * 0.6)
        fraction *= np.abs(x) > 14.0
        front = ramp(y + 48.0, 12.0) * (np.abs(x) < 92.0)
        canvas.blend(box, fraction, self.bone + front * (self.cartilage - self.bone))
