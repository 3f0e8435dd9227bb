"""Branching trees: vessels and airways of the lungs."""

import math
from dataclasses import dataclass

from chest_phantom.anatomy import Subject
from chest_phantom.canvas import Point
from chest_phantom.random_streams import Stream
from chest_phantom.strokes import Stroke, Tube

CARINA: Point = (0.0, 12.0, 0.0)
LEAVES = 64  # vessel ends per lung
AIRWAYS = 11  # segmental bronchi per lung


@dataclass(frozen=True)
class Branch:
    """A straight segment of a tree, directed away from the root."""

    start: Point
    end: Point
    radius: float
    end_radius: float


def hilum(side: float) -> Point:
    """Return where vessels and bronchi enter a lung."""
    return side * 40.0, 16.0, -20.0 if side < 0 else -14.0


def grow(root: Point, targets: list[Point], leaf: float, root_radius: float) -> list[Branch]:
    """Grow a tree from `root` to all targets; each joins the nearest branch end closer to the root.

    Radii follow Murray's law: their cubes add up where branches meet.
    """
    ordered = sorted(targets, key=lambda point: math.dist(root, point))
    nodes, parents = [root], [-1]
    for point in ordered:
        nearest = min(
            range(len(nodes)),
            key=lambda i: math.dist(nodes[i], point) + 0.25 * math.dist(nodes[i], root),
        )
        parents.append(nearest)
        nodes.append(point)
    flow = [leaf * leaf * leaf] * len(nodes)
    for i in range(len(nodes) - 1, 0, -1):
        flow[parents[i]] += flow[i] * 0.8
    radius = [min(round(math.cbrt(cube), 9), root_radius) for cube in flow]
    branches = []
    for end, start in enumerate(parents[1:], start=1):
        wide = min(radius[start], 1.5 * radius[end])
        branches.append(Branch(nodes[start], nodes[end], wide, radius[end]))
    return branches


def vessel_strokes(subject: Subject) -> list[Stroke]:
    """Return tapering arteries and veins from each hilum to the outer lung."""
    stream, state = subject.stream("vessels"), subject.state
    leaf = stream.uniform(0.9, 1.3)
    bottom = min(state.thorax.left_dome, state.thorax.right_dome) - 55
    strokes: list[Stroke] = []
    for side in (-1.0, 1.0):
        targets = subject.lung_points(stream, side, LEAVES, bottom, 104, 7.0)
        for branch in grow(hilum(side), targets, leaf, 6.0):
            tube = (branch.start, branch.end, branch.radius, branch.end_radius, state.blood)
            strokes.append(Tube(*tube, clip="lung"))
    return strokes


def lung_airways(subject: Subject, side: float) -> list[Branch]:
    """Return the bronchi of one lung beyond the main bronchus."""
    stream = subject.stream(f"airways {side}")
    bottom = min(subject.state.thorax.left_dome, subject.state.thorax.right_dome) - 10
    targets = _spread(stream, subject, side, bottom)
    return grow(hilum(side), targets, 1.6, 4.6)


def _spread(stream: Stream, subject: Subject, side: float, bottom: float) -> list[Point]:
    """Sample ends of segmental bronchi in the middle third of a lung, at least 20 mm apart."""
    x, y, z = hilum(side)
    chosen: list[Point] = []
    for position in subject.lung_points(stream, side, 12 * AIRWAYS, bottom, 80, 6.0):
        part = stream.uniform(0.5, 0.8)
        end = (
            x + part * (position[0] - x),
            y + part * (position[1] - y),
            z + part * (position[2] - z),
        )
        if all(math.dist(end, other) > 20 for other in chosen):
            chosen.append(end)
        if len(chosen) == AIRWAYS:
            break
    return chosen


def airway_strokes(subject: Subject) -> list[Stroke]:
    """Return trachea and bronchi, walls before lumens."""
    pieces: list[tuple[Point, Point, float, float, float]] = [
        ((0.0, 4.0, 150.0), CARINA, 8.5, 8.5, 1.6),
    ]
    for side in (-1.0, 1.0):
        pieces.append((CARINA, hilum(side), 6.8, 5.4, 1.4))
        pieces += [
            (branch.start, branch.end, branch.radius, branch.end_radius, 0.9)
            for branch in lung_airways(subject, side)
        ]
    walls = [Tube(a, b, r + wall, e + wall, 20.0) for a, b, r, e, wall in pieces]
    lumens = [Tube(a, b, r, e, -1000.0) for a, b, r, e, _ in pieces]
    return [*walls, *lumens]
