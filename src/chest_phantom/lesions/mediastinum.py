"""Hiatal hernia and enlarged lymph nodes."""

from chest_phantom.anatomy import Subject
from chest_phantom.canvas import point
from chest_phantom.heart import aorta_course
from chest_phantom.strokes import Ellipsoid, Stroke, tubes


def hernia(subject: Subject) -> list[Stroke]:
    """Return a stomach behind the heart: wall, food, often gas in front.

    The aorta is painted again, as it would otherwise be covered.
    """
    stream, state = subject.stream("hernia"), subject.state
    size = stream.uniform(28, 42)
    tall = size * stream.uniform(1.0, 1.5)
    dome = (state.thorax.left_dome + state.thorax.right_dome) / 2
    centre = stream.uniform(2, 26), 46.0, dome + 0.6 * tall
    wall = Ellipsoid(centre, (size, size * 0.85, tall), 45.0)
    inside = point(r - 4.0 for r in wall.radii)
    strokes: list[Stroke] = [wall, Ellipsoid(centre, inside, stream.uniform(-30, 35))]
    if stream.chance(0.9):
        gas = centre[0], centre[1] - 0.35 * inside[1], centre[2] + 0.1 * tall
        radii = 0.8 * inside[0], 0.55 * inside[1], 0.75 * inside[2]
        strokes.append(Ellipsoid(gas, radii, -850.0))
    for _ in range(stream.integer(5, 9)):  # bubbles in the food
        bubble = point(
            c + 0.7 * r * d for c, r, d in zip(centre, inside, stream.direction(), strict=True)
        )
        size = stream.uniform(3.5, 6.5)
        strokes.append(Ellipsoid(bubble, (size, size, size), -850.0))
    aorta = tubes(aorta_course(subject.patient)[6:], subject.patient.aorta - 1.0, state.blood)
    return [*strokes, *aorta]


# Positions of enlarged nodes, (x, y, z), mm: paratracheal, prevascular, subcarinal,
# aortopulmonary, hilar, axillary.
STATIONS = (
    (-22, -2, 28),
    (-18, 4, 50),
    (4, -40, 30),
    (-12, -40, 44),
    (2, 28, -26),
    (-8, 26, -34),
    (30, 4, 14),
    (34, -8, 2),
    (-50, 12, -16),
    (-46, 22, -36),
    (52, 14, -12),
    (48, 24, -30),
    (-138, 10, 66),
    (138, 10, 66),
)


def nodes(subject: Subject) -> list[Stroke]:
    stream = subject.stream("nodes")
    growth = subject.scan_stream("node growth").uniform(0.9, 1.15)
    stations = list(STATIONS)
    strokes: list[Stroke] = []
    for _ in range(stream.integer(6, 10)):
        x, y, z = stations.pop(stream.integer(0, len(stations) - 1))
        for _ in range(stream.integer(1, 2)):
            position = point(c + stream.uniform(-6, 6) for c in (x, y, z))
            radii = point(stream.uniform(10, 15) * growth for _ in range(3))
            strokes.append(Ellipsoid(position, radii, stream.uniform(35, 70)))
    return strokes
