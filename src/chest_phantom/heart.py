"""Mediastinum: heart, great vessels, oesophagus, lymph nodes."""

from dataclasses import replace

from chest_phantom.anatomy import Patient, Subject
from chest_phantom.body import FAT
from chest_phantom.canvas import Point
from chest_phantom.strokes import Ellipsoid, Stroke, tubes
from chest_phantom.trees import hilum


def aorta_course(patient: Patient) -> list[Point]:
    """Return the centre line from the heart over the arch and down along the spine."""
    top = patient.arch_height
    return [
        (4, -22, -44),
        (-10, -26, -16),
        (-11, -22, top - 18),
        (-4, -12, top - 4),
        (10, 8, top),
        (22, 30, top - 8),
        (27, 46, top - 28),
        (26, 50, -30),
        (20, 52, -90),
        (12, 54, -240),
    ]


def mediastinum_strokes(subject: Subject) -> list[Stroke]:
    return [
        *_vessels(subject),
        *_heart(subject),
        *_oesophagus(subject),
        *_small_nodes(subject),
    ]


def grown(shape: Ellipsoid, by: float, hu: float) -> Ellipsoid:
    """Return a shape enlarged by `by` mm, with another density, clipped to the chest."""
    a, b, c = shape.radii
    return replace(shape, radii=(a + by, b + by, c + by), hu=hu, clip="cavity")


def _heart(subject: Subject) -> list[Stroke]:
    """Return, from outside in: fat pad, fluid if any, epicardial fat, muscle, chambers."""
    patient, state = subject.patient, subject.state
    heart, fat, fluid = state.heart, patient.epicardial_fat, state.pericardial_fluid
    inner = 3.0 if fluid else 0.0
    stream = subject.stream("heart inside")
    strokes: list[Stroke] = [grown(heart, fat + fluid + inner, FAT)]
    if stream.chance(0.4):  # a normal fat pad at the apex
        (x, y, z), half = heart.centre, heart.half_widths()
        position = (x + 0.75 * half[0], y - 0.8 * half[1], z - 0.6 * half[2])
        strokes.append(Ellipsoid(position, (26, 18, 22), FAT, clip="cavity"))
    if fluid:
        strokes.append(grown(heart, fluid + inner, 8.0))
        strokes.append(grown(heart, inner, FAT + 15))
    else:
        strokes.append(grown(heart, 1.0, 30.0))
    strokes.append(grown(heart, 0.0, state.myocardium))
    (x, y, z), (a, b, c), (cos, sin) = heart.centre, heart.radii, heart.turn
    for along, across, size in ((0.25, 0.28, 0.44), (0.1, -0.42, 0.40), (-0.5, 0.0, 0.40)):
        position = (
            x + along * a * cos - across * b * sin,
            y + along * a * sin + across * b * cos,
            z,
        )
        radii = (size * a * stream.uniform(0.9, 1.1), size * b * 1.05, 0.68 * c)
        strokes.append(Ellipsoid(position, radii, state.blood, turn=heart.turn, edge=5.0))
    return strokes


def _vessels(subject: Subject) -> list[Stroke]:
    """Return pulmonary arteries, vena cava, aorta and the branches of its arch."""
    patient, state = subject.patient, subject.state
    top = patient.arch_height
    trunk: list[Point] = [(16, -34, -42), (18, -24, -10), (10, -2, -12)]
    strokes: list[Stroke] = [
        *tubes(trunk, 12.5, state.blood),
        *tubes([trunk[2], hilum(-1)], 9.0, state.blood),
        *tubes([trunk[1], (34, 4, -4), hilum(1)], 9.0, state.blood),
        *tubes([(-24, -14, -50), (-25, -14, 45), (-20, -22, 75)], 8.5, state.vein),
        *tubes([(-20, -22, 72), (22, -32, 62), (50, -34, 78)], 6.0, state.vein),
        *tubes([(-25, -10, 4), (-20, 24, 12), (-9, 48, 2)], 3.2, state.blood),
        *tubes([(-12, -6, top), (-22, -4, 84), (-30, 0, 140)], 5.0, state.blood),
        *tubes([(2, -2, top), (10, -2, 84), (20, 0, 140)], 4.2, state.blood),
        *tubes([(12, 12, top), (24, 14, 84), (34, 4, 120)], 4.6, state.blood),
    ]
    course = aorta_course(patient)
    strokes += tubes(course[:4], patient.aorta + 2.0, state.blood)
    strokes += tubes(course[3:7], patient.aorta, state.blood)
    strokes += tubes(course[6:], patient.aorta - 1.0, state.blood)
    return strokes


def _oesophagus(subject: Subject) -> list[Stroke]:
    stream = subject.stream("gullet")
    course: list[Point] = [(2, 26, 150), (4, 36, 30), (6, 42, -40), (14, 40, -110), (24, 26, -150)]
    strokes: list[Stroke] = list(tubes(course, stream.uniform(5.5, 8), 40.0))
    if stream.chance(0.4):
        z = stream.uniform(-50, 60)
        strokes.append(Ellipsoid((4, 38, z), (3, 2.5, 12), -700))
    return strokes


def _small_nodes(subject: Subject) -> list[Stroke]:
    """Return lymph nodes of normal size, which every patient has."""
    stream = subject.stream("small nodes")
    strokes: list[Stroke] = []
    for _ in range(stream.integer(3, 9)):
        position = stream.uniform(-24, 28), stream.uniform(-30, 24), stream.uniform(-25, 60)
        radius = stream.uniform(2, 3.6)
        strokes.append(Ellipsoid(position, (radius, radius, radius), 40.0))
    return strokes
