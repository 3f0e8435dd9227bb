"""Calcification of the aorta and of the coronary arteries."""

import math
from itertools import pairwise

from chest_phantom.anatomy import Subject
from chest_phantom.canvas import Point, point
from chest_phantom.heart import aorta_course
from chest_phantom.random_streams import Stream
from chest_phantom.strokes import Ellipsoid, Stroke, Tube


def aortic_plaques(subject: Subject) -> list[Stroke]:
    """Return short strips of calcium on the wall, from the arch down."""
    stream = subject.stream("aortic plaques")
    course = aorta_course(subject.patient)
    strokes: list[Stroke] = []
    for _ in range(stream.integer(14, 22)):
        piece = stream.integer(2, len(course) - 2)
        radius = subject.patient.aorta + (2.0 if piece < 3 else 0.0 if piece < 6 else -1.0)
        hu, width = stream.uniform(650, 950), stream.uniform(2.6, 3.8)
        start = stream.uniform(0, 0.9 if piece < 8 else 0.6)
        whole = round(math.dist(course[piece], course[piece + 1]), 9)
        length = min(stream.uniform(8, 20) / whole, 0.5)
        side = _across(stream, course[piece], course[piece + 1])
        ends = [
            _beside(course[piece], course[piece + 1], part, side, radius)
            for part in (start, start + length)
        ]
        strokes.append(Tube(ends[0], ends[1], width, width, hu))
    return strokes


def _across(stream: Stream, a: Point, b: Point) -> Point:
    """Sample a unit vector at right angles to the line from a to b."""
    line = [q - p for p, q in zip(a, b, strict=True)]
    length = math.sqrt(line[0] * line[0] + line[1] * line[1] + line[2] * line[2])
    line = [part / length for part in line]
    while True:
        draw = stream.direction()
        along = draw[0] * line[0] + draw[1] * line[1] + draw[2] * line[2]
        rest = [d - along * w for d, w in zip(draw, line, strict=True)]
        size = math.sqrt(rest[0] * rest[0] + rest[1] * rest[1] + rest[2] * rest[2])
        if size > 0.3:
            return rest[0] / size, rest[1] / size, rest[2] / size


def _beside(a: Point, b: Point, part: float, side: Point, radius: float) -> Point:
    return point(p + part * (q - p) + radius * s for p, q, s in zip(a, b, side, strict=True))


# Courses on the heart's surface, relative to its half-axes (long axis, short axis, z):
# left anterior descending, circumflex, right coronary.
COURSES = (
    ((-0.30, -0.62, 0.72), (0.10, -0.86, 0.50), (0.45, -0.85, 0.26), (0.75, -0.64, 0.0)),
    ((-0.30, 0.30, 0.90), (0.05, 0.72, 0.68), (0.20, 0.92, 0.30), (0.20, 0.97, -0.10)),
    ((-0.55, -0.50, 0.66), (-0.80, -0.52, 0.28), (-0.84, -0.50, -0.15), (-0.70, -0.40, -0.58)),
)


def coronary_plaques(subject: Subject) -> list[Stroke]:
    """Return beads and tracks of calcium along two or three coronary arteries."""
    stream, heart = subject.stream("coronary plaques"), subject.state.heart
    strokes: list[Stroke] = []
    for course in COURSES if stream.chance(0.7) else (COURSES[0], stream.pick(COURSES[1:])):
        points = [_on_heart(heart, position) for position in course]
        for a, b in pairwise(points):
            if stream.chance(0.9):
                start, width = stream.uniform(0, 0.4), stream.uniform(2.8, 4.0)
                end = start + stream.uniform(0.3, 0.6)
                hu = stream.uniform(650, 950)
                ends = [_beside(a, b, part, (0, 0, 0), 0.0) for part in (start, end)]
                strokes.append(Tube(ends[0], ends[1], width, width, hu))
    return strokes


def _on_heart(heart: Ellipsoid, direction: Point) -> Point:
    """Return the position on the heart's surface in a direction relative to its half-axes."""
    x, y, z = direction
    size = math.sqrt(x * x + y * y + z * z)
    along, across, up = (
        part / size * (radius + 1.5) for part, radius in zip(direction, heart.radii, strict=True)
    )
    (x, y, z), (cos, sin) = heart.centre, heart.turn
    return x + along * cos - across * sin, y + along * sin + across * cos, z + up
