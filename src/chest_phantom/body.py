"""Body wall, lungs and abdomen."""

from dataclasses import dataclass

import numpy as np

from chest_phantom.anatomy import Subject
from chest_phantom.canvas import Canvas, ramp
from chest_phantom.fields import Field
from chest_phantom.strokes import Ellipsoid, Stroke
from chest_phantom.thorax import MUSCLE, rounded_box, rows

FAT = -105.0
PLEURA = 2.5  # mm between the inner chest wall and the lung


def wall_strokes(subject: Subject) -> list[Stroke]:
    """Return the table, body wall and abdomen, which other strokes are painted over."""
    stream = subject.stream("wall")
    strokes: list[Stroke] = [Table(stream.uniform(-500, -100))] if stream.chance(0.7) else []
    if subject.patient.sex == "F":
        strokes += _breasts(subject)
    return [*strokes, Wall(subject), *_abdomen(subject)]


def _breasts(subject: Subject) -> list[Stroke]:
    stream = subject.stream("breasts")
    width, depth = stream.uniform(36, 58), stream.uniform(12, 34)
    glands = stream.uniform(0.2, 0.7)
    front = -108.0 - subject.patient.fat * 0.7
    strokes: list[Stroke] = []
    for side in (-1.0, 1.0):
        centre = (side * 74.0, front, -45.0)
        strokes.append(Ellipsoid(centre, (width, depth, width), FAT))
        inner = (width * glands, depth * glands, width * glands)
        strokes.append(Ellipsoid(centre, inner, 20.0, edge=10.0, opacity=0.8))
    return strokes


@dataclass(frozen=True)
class Table:
    """The scanner's couch: a thin curved shell under the back."""

    hu: float

    def paint(self, canvas: Canvas) -> None:
        low, high = (-190.0, 150.0, -400.0), (190.0, 176.0, 400.0)
        box = canvas.box(low, high)
        if box is None:
            return
        x, y, _ = canvas.coordinates(box)
        curve = 170.0 - x * x / 2400.0
        fraction = ramp(np.abs(y - curve) - 3.0, canvas.pixel)
        canvas.blend(box, fraction, self.hu)


@dataclass(frozen=True)
class Wall:
    """Subcutaneous fat, muscle, fat inside the chest, and the parenchyma of both lungs."""

    subject: Subject

    def paint(self, canvas: Canvas) -> None:
        patient = self.subject.patient
        wide, deep = rows(MUSCLE, canvas.z)
        y = canvas.y - 5.0
        everything = (slice(None),) * 3
        outside = rounded_box(canvas.x, y, 36.0, wide, deep)
        fat = ramp(outside - patient.fat, canvas.pixel)
        canvas.blend(everything, fat, FAT)
        texture = Field.draw(self.subject.stream("muscle"), (22.0, 22.0, 34.0))
        muscle = patient.muscle - 22.0 + 34.0 * texture.at(canvas, everything)
        canvas.blend(everything, ramp(outside, canvas.pixel), muscle)
        box = canvas.box((-150.0, -105.0, -400.0), (150.0, 105.0, 400.0))
        if box is not None:
            self._fill_chest(canvas, box)

    def _fill_chest(self, canvas: Canvas, box: tuple[slice, slice, slice]) -> None:
        state = self.subject.state
        x, y, z = canvas.coordinates(box)
        cavity = state.thorax.cavity(x, y, z)
        canvas.cavity[box] = cavity
        canvas.blend(box, ramp(cavity, canvas.pixel), FAT)
        above = z - state.thorax.dome(x, y)
        canvas.dome[box] = above
        inside = np.maximum(cavity + PLEURA, state.thorax.medial(x, y, z))
        # The dome is oblique to the slices, so its edge is about a slice's thickness wide.
        lung = ramp(inside, canvas.pixel) * ramp(-above, canvas.thickness)
        canvas.lung[box] = lung
        slope = state.lung_gradient / 100.0
        density = state.lung + slope * y + self._grain(canvas, box)
        canvas.blend(box, lung, density)
        liver = np.maximum(cavity + 5.0, x - (26.0 - 0.42 * y - 0.005 * (y * y)))
        fraction = ramp(liver, canvas.pixel) * ramp(above + 5.0, canvas.thickness)
        canvas.blend(box, fraction, state.liver)

    def _grain(self, canvas: Canvas, box: tuple[slice, slice, slice]) -> np.ndarray:
        """Return uneven aeration, in HU around 0."""
        stream = self.subject.scan_stream("grain")
        strength = stream.uniform(20, 110)
        grain = Field.draw(stream, (40.0, 40.0, 48.0))
        return (grain.at(canvas, box) - 0.5) * strength


def _abdomen(subject: Subject) -> list[Stroke]:
    """Return spleen, stomach and colon under the left dome, clipped by the diaphragm."""
    stream, state = subject.scan_stream("abdomen"), subject.state
    top = state.thorax.left_dome
    spleen = Ellipsoid((92, 48, top - 46), (30, 34, stream.uniform(34, 50)), state.liver - 5)
    size = stream.uniform(22, 44)
    centre = (48 + stream.uniform(-8, 12), -18.0, top - size - stream.uniform(12, 24))
    # Some have oral contrast medium: as dense as calcium, but not calcium.
    food = stream.uniform(150, 1000) if stream.chance(0.35) else stream.uniform(0, 60)
    stomach = Ellipsoid(centre, (size, size, size), food)
    strokes: list[Stroke] = [Under(spleen), Under(stomach)]
    if stream.chance(0.6):
        gas = (centre[0], centre[1] - size * 0.4, centre[2])
        radii = (size * 0.65, size * 0.45, size * 0.7)
        strokes.append(Under(Ellipsoid(gas, radii, -950)))
    if stream.chance(0.4):
        colon = (stream.uniform(70, 105), -50.0, top - stream.uniform(42, 60))
        strokes.append(Under(Ellipsoid(colon, (22, 18, 22), -920)))
    return strokes


@dataclass(frozen=True)
class Under:
    """A shape clipped to below the diaphragm."""

    shape: Ellipsoid

    def paint(self, canvas: Canvas) -> None:
        extent = (half + canvas.pixel for half in self.shape.half_widths())
        box = canvas.around(self.shape.centre, extent)
        if box is None:
            return
        fraction = ramp(self.shape.distance(*canvas.coordinates(box)), canvas.pixel)
        fraction *= ramp(canvas.dome[box] + 5.0, canvas.thickness)
        fraction *= ramp(canvas.cavity[box] + 4.0, canvas.pixel)
        canvas.blend(box, fraction, self.shape.hu)
