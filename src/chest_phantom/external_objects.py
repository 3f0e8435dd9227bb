"""Objects on the patient that are not findings: electrodes, their wires, a zip."""

from chest_phantom.anatomy import Subject
from chest_phantom.canvas import Point
from chest_phantom.strokes import Ellipsoid, Stroke, tubes
from chest_phantom.thorax import MUSCLE, profile


def outside_strokes(subject: Subject) -> list[Stroke]:
    """Return metal on the skin, in a fifth of all scans, independent of the findings."""
    stream = subject.scan_stream("outside")
    if stream.chance(0.8):
        return []
    strokes: list[Stroke] = []
    for _ in range(stream.integer(2, 5)):
        x, z = stream.uniform(-95, 95), stream.uniform(-150, 70)
        skin = x, _skin(subject, x, z), z
        strokes.append(Ellipsoid(skin, (5.0, 2.5, 5.0), stream.uniform(700, 1300)))
        end: Point = (stream.uniform(-60, 60), skin[1] - stream.uniform(4, 20), z + 60.0)
        strokes += tubes([skin, end], stream.uniform(1.0, 1.6), stream.uniform(500, 1200))
    return strokes


def _skin(subject: Subject, x: float, z: float) -> float:
    """Return y of the front of the body at (x, z), slightly outside the skin."""
    wide, deep = profile(MUSCLE, z)
    across = max(abs(x) - 36.0, 0.0) / (wide - 36.0)
    return 5.0 - deep * (1.0 - 0.5 * across * across) - subject.patient.fat - 4.0
