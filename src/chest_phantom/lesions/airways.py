"""Findings of the bronchi: peribronchial thickening and bronchiectasis."""

import math

from chest_phantom.anatomy import Subject
from chest_phantom.canvas import Point, point
from chest_phantom.strokes import Stroke, Tube
from chest_phantom.trees import hilum, lung_airways

Piece = tuple[Point, Point, float, float, float]  # start, end, two radii, wall, mm


def _ringed(pieces: list[Piece], hu: float) -> list[Stroke]:
    """Return walls before lumens, so that no wall covers another's lumen."""
    walls = [Tube(a, b, r + wall, e + wall, hu, clip="lung") for a, b, r, e, wall in pieces]
    lumens = [Tube(a, b, r, e, -1000.0) for a, b, r, e, _ in pieces]
    return [*walls, *lumens]


def thick_walls(subject: Subject) -> list[Stroke]:
    """Return thick walls around the bronchi, most of them near the hila."""
    stream = subject.stream("thick walls")
    wall = stream.uniform(3.8, 5.4)
    pieces: list[Piece] = []
    for side in (-1.0, 1.0):
        for branch in lung_airways(subject, side):
            if stream.chance(0.95):
                radius, end = max(branch.radius, 2.8), max(branch.end_radius, 2.4)
                pieces.append((branch.start, branch.end, radius, end, wall))
    return _ringed(pieces, stream.uniform(0, 40))


def bronchiectasis(subject: Subject) -> list[Stroke]:
    """Return bundles of wide, non-tapering bronchi in two or three lobes."""
    stream = subject.stream("bronchiectasis")
    pieces: list[Piece] = []
    for _ in range(stream.integer(2, 3)):
        side = stream.side()
        root = hilum(side)
        low, high = stream.pick(((-150, -70), (-150, -70), (-90, -20), (10, 80)))
        centre = subject.lung_points(stream, side, 1, low, high, 16.0)[0]
        ends = [
            end
            for end in subject.lung_points(stream, side, 60, low - 15, high + 15, 9.0)
            if math.dist(end, centre) < 42
        ]
        for end in ends[:14]:
            radius = stream.uniform(4.6, 7.2)
            start = point(r + 0.55 * (e - r) for r, e in zip(root, end, strict=True))
            pieces.append((start, end, radius, radius * stream.uniform(1.0, 1.35), 2.5))
    return _ringed(pieces, 20.0)
