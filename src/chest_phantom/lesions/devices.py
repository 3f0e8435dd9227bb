"""Medical material: pacemakers, sternal wires and ports."""

from dataclasses import dataclass

import numpy as np

from chest_phantom.anatomy import Subject
from chest_phantom.canvas import Canvas, Point, ramp
from chest_phantom.random_streams import Stream
from chest_phantom.strokes import Ellipsoid, Stroke, tubes
from chest_phantom.thorax import CAVITY, profile

SVC: list[Point] = [(-20, -22, 74), (-25, -14, 45), (-24, -14, -20)]

REACH = 110.0  # mm, length of metal streaks
RAYS = (  # directions of streaks, (cosine, sine), alternately dark and bright
    (1.0, 0.0),
    (0.965926, 0.258819),
    (0.866025, 0.5),
    (0.707107, 0.707107),
    (0.5, 0.866025),
    (0.866025, -0.5),
    (0.965926, -0.258819),
    (0.707107, -0.707107),
)


def medical_material(subject: Subject) -> list[Stroke]:
    stream = subject.stream("material")
    kind = stream.pick((_pacemaker, _pacemaker, _sternal_wires, _port))
    return kind(subject, stream)


@dataclass(frozen=True)
class Streaks:
    """Dark and bright streak artifacts of metal."""

    centre: Point
    height: float  # mm, half-height
    strength: float  # HU beside the metal

    def paint(self, canvas: Canvas) -> None:
        cx, cy, cz = self.centre
        box = canvas.around(self.centre, (REACH, REACH, self.height))
        if box is None:
            return
        x, y, z = canvas.coordinates(box)
        dx, dy = x - cx, y - cy
        fade = 1.0 - np.minimum(np.sqrt(dx * dx + dy * dy) / REACH, 1.0)
        level = ramp(np.abs(z - cz) - self.height, canvas.thickness) * (self.strength * fade)
        inside = canvas.hu[box] > -990.0
        for number, (cos, sin) in enumerate(RAYS):
            ray = ramp(np.abs(dx * sin - dy * cos) - 3.0, canvas.pixel + 2.0)
            canvas.hu[box] += (ray * level) * (inside * (1.0 if number % 2 else -1.0))


def _pacemaker(subject: Subject, stream: Stream) -> list[Stroke]:
    """Return a can under the left clavicle with one or two leads into the heart."""
    can = 92.0 + stream.uniform(-8, 8), -80.0 - subject.patient.fat * 0.3, 52.0
    heart = subject.state.heart.centre
    lead = [can, (58.0, -60.0, 80.0), (20.0, -32.0, 64.0), *SVC]
    tip = heart[0] + 22.0, heart[1] - 22.0, heart[2] - 24.0
    strokes: list[Stroke] = [
        Streaks(can, 24.0, stream.uniform(250, 500)),
        Ellipsoid(can, (30, 9, 27), stream.uniform(2000, 3000)),
        *tubes([*lead, (heart[0] - 30, heart[1], heart[2]), tip], 2.4, 2600.0),
    ]
    if stream.chance(0.5):
        strokes += tubes([SVC[-1], (heart[0] - 38, heart[1] - 16, heart[2] + 10)], 2.4, 2600.0)
    return strokes


def _sternal_wires(subject: Subject, stream: Stream) -> list[Stroke]:
    """Return steel loops around the sternum, and clips along a bypass."""
    strokes: list[Stroke] = []
    for z in range(-60, 70, 21):
        _, deep, centre, _ = profile(CAVITY, z)
        y = centre - deep - 7.0
        loop: list[Point] = [
            (-13, y + 6, z),
            (-11, y - 8, z + 2),
            (11, y - 8, z + 3),
            (13, y + 6, z),
        ]
        strokes.append(Streaks((0.0, y, z), 5.0, stream.uniform(80, 200)))
        strokes += tubes(loop, 2.3, stream.uniform(2000, 3000))
    heart = subject.state.heart
    for _ in range(stream.integer(3, 6)):
        part = stream.uniform(-0.6, 0.7)
        position = (
            heart.centre[0] + part * heart.half_widths()[0],
            heart.centre[1] - 0.85 * heart.half_widths()[1],
            heart.centre[2] + stream.uniform(-10, 45),
        )
        strokes.append(Ellipsoid(position, (2.2, 2.2, 4.0), 2500.0))
    return strokes


def _port(subject: Subject, stream: Stream) -> list[Stroke]:
    """Return a port chamber under the skin with a catheter into the superior vena cava."""
    port = -82.0 + stream.uniform(-8, 8), -84.0 - subject.patient.fat * 0.3, 40.0
    course: list[Point] = [port, (-60, -66, 84), (-38, -34, 88), *SVC]
    return [
        Streaks(port, 12.0, stream.uniform(120, 250)),
        Ellipsoid(port, (14, 8, 14), 1900.0),
        *tubes(course, 2.2, stream.uniform(1200, 2000)),
    ]
