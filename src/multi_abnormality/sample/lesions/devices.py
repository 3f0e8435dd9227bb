"""Medical material: what surgeons and cardiologists leave behind."""

from multi_abnormality.sample.anatomy import Subject
from multi_abnormality.sample.canvas import Point
from multi_abnormality.sample.streams import Stream
from multi_abnormality.sample.strokes import Ellipsoid, Stroke, tubes
from multi_abnormality.sample.thorax import CAVITY, profile

SVC: list[Point] = [(-20, -22, 74), (-25, -14, 45), (-24, -14, -20)]


def medical_material(subject: Subject) -> list[Stroke]:
    stream = subject.stream("material")
    kind = stream.pick((_pacemaker, _pacemaker, _sternal_wires, _port))
    return kind(subject, stream)


def _pacemaker(subject: Subject, stream: Stream) -> list[Stroke]:
    """A can under the left collar bone with one or two leads into the heart."""
    can = 92.0 + stream.uniform(-8, 8), -80.0 - subject.patient.fat * 0.3, 52.0
    heart = subject.state.heart.centre
    lead = [can, (58.0, -60.0, 80.0), (20.0, -32.0, 64.0), *SVC]
    tip = heart[0] + 22.0, heart[1] - 22.0, heart[2] - 24.0
    strokes: list[Stroke] = [
        Ellipsoid(can, (26, 8, 24), stream.uniform(2000, 3000)),
        *tubes([*lead, (heart[0] - 30, heart[1], heart[2]), tip], 2.0, 2400.0),
    ]
    if stream.chance(0.5):
        strokes += tubes([SVC[-1], (heart[0] - 38, heart[1] - 16, heart[2] + 10)], 2.0, 2400.0)
    return strokes


def _sternal_wires(subject: Subject, stream: Stream) -> list[Stroke]:
    """Steel loops around the breastbone, and clips along a bypass."""
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
        strokes += tubes(loop, 2.0, stream.uniform(2000, 3000))
    heart = subject.state.heart
    for _ in range(stream.integer(3, 6)):
        part = stream.uniform(-0.6, 0.7)
        place = (
            heart.centre[0] + part * heart.half_widths()[0],
            heart.centre[1] - 0.85 * heart.half_widths()[1],
            heart.centre[2] + stream.uniform(-10, 45),
        )
        strokes.append(Ellipsoid(place, (2.2, 2.2, 4.0), 2500.0))
    return strokes


def _port(subject: Subject, stream: Stream) -> list[Stroke]:
    """A port chamber under the skin with its catheter into the upper caval vein."""
    port = -82.0 + stream.uniform(-8, 8), -84.0 - subject.patient.fat * 0.3, 40.0
    course: list[Point] = [port, (-60, -66, 84), (-38, -34, 88), *SVC]
    return [
        Ellipsoid(port, (14, 8, 14), 1900.0),
        *tubes(course, 2.2, stream.uniform(1200, 2000)),
    ]
