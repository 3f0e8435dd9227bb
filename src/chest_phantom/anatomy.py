"""Anatomy of a patient, and its state in a scan: all measures that are drawn."""

import math
from dataclasses import dataclass

import numpy as np

from chest_phantom.canvas import Point
from chest_phantom.cohort import Scan
from chest_phantom.finding_names import FINDINGS
from chest_phantom.random_streams import Stream
from chest_phantom.strokes import Ellipsoid
from chest_phantom.thorax import CAVITY, Thorax, profile

CARDIOMEGALY_RATIO = 0.5  # cardiothoracic ratio from which a heart counts as enlarged


@dataclass(frozen=True)
class Patient:
    """Properties that are equal in all scans of a patient. Lengths in mm, densities in HU."""

    sex: str  # M | F
    age: int  # years
    scale: Point  # size relative to the standard patient, (x, y, z)
    fat: float  # thickness under the skin
    muscle: float
    bone: float
    calcified_cartilage: bool
    mediastinum: float
    epicardial_fat: float
    aorta: float  # radius
    arch_height: float


@dataclass(frozen=True)
class State:
    """Properties of one scan: breath, contrast medium, heart. Densities in HU."""

    thorax: Thorax
    heart: Ellipsoid
    pericardial_fluid: float  # mm, 0 for none
    lung: float
    lung_gradient: float  # from front to back, per 100 mm
    blood: float
    vein: float  # superior vena cava, which the contrast medium enters first
    myocardium: float
    liver: float


@dataclass(frozen=True)
class Subject:
    """A patient in one scan, with random streams by purpose."""

    scan: Scan
    patient: Patient
    state: State

    def stream(self, purpose: str) -> Stream:
        """Return a stream of the patient, equal in both scans."""
        return Stream(*self.scan.patient_key, purpose)

    def scan_stream(self, purpose: str) -> Stream:
        """Return a stream of this scan."""
        return Stream(*self.scan.key, purpose)

    def has(self, finding: str) -> bool:
        return bool(self.scan.labels[FINDINGS.index(finding)])

    def lung_points(
        self, stream: Stream, side: float, count: int, low: float, high: float, depth: float
    ) -> list[Point]:
        """Sample positions in one lung, mm.

        Args:
            stream: random numbers.
            side: -1 for the right lung, 1 for the left.
            count: number of positions.
            low: lower limit of z, mm.
            high: upper limit of z, mm.
            depth: minimum distance to the lung's surface, mm.
        """
        found: list[Point] = []
        while len(found) < count:
            draws = [
                (
                    side * stream.uniform(10, 140),
                    stream.uniform(-92, 94),
                    stream.uniform(low, high),
                )
                for _ in range(3 * count + 6)
            ]
            x, y, z = (np.array(axis).reshape(-1, 1, 1) for axis in zip(*draws, strict=True))
            away = np.maximum(self.state.thorax.lung(x, y, z), -self.state.heart.distance(x, y, z))
            keep = away.ravel() < -depth
            found += [position for position, inside in zip(draws, keep, strict=True) if inside]
        return found[:count]


def draw_patient(scan: Scan) -> Patient:
    stream = Stream(*scan.patient_key, "patient")
    sex = stream.pick("MF")
    size = (1.0 if sex == "M" else 0.94) * stream.uniform(0.94, 1.04)
    across, deep, high = (size * stream.uniform(0.96, 1.04) for _ in range(3))
    return Patient(
        sex=sex,
        age=stream.integer(25, 88),
        scale=(across, deep, high),
        fat=stream.uniform(4, 14) + stream.uniform(0, 1) * stream.uniform(0, 26),
        muscle=stream.uniform(35, 65),
        bone=stream.uniform(100, 480),
        calcified_cartilage=stream.chance(0.4),
        mediastinum=stream.uniform(22, 29),
        epicardial_fat=stream.uniform(3, 11),
        aorta=stream.uniform(11.5, 16),
        arch_height=stream.uniform(26, 38),
    )


def draw_subject(scan: Scan) -> Subject:
    """Sample the patient and state of a scan, with a heart that matches the labels."""
    patient = draw_patient(scan)
    return Subject(scan, patient, _draw_state(scan, patient))


def _draw_state(scan: Scan, patient: Patient) -> State:
    stream = Stream(*scan.key, "state")
    labels = dict(zip(FINDINGS, scan.labels, strict=True))
    breath = stream.uniform(0, 1)  # 0 deep in, 1 shallow
    right = -112 + 26 * breath + stream.uniform(-6, 6)
    left = right - stream.uniform(4, 16)
    contrast = stream.uniform(60, 180) if stream.chance(0.5) else 0.0
    thorax = Thorax(right, left, patient.mediastinum)
    return State(
        thorax=thorax,
        heart=_draw_heart(scan, thorax, bool(labels["Cardiomegaly"])),
        pericardial_fluid=(
            Stream(*scan.key, "pericardium").uniform(7, 17) if labels["Pericardial effusion"] else 0
        ),
        lung=-885 + 85 * breath + stream.uniform(0, 70),
        lung_gradient=stream.uniform(10, 120),
        blood=42 + contrast,
        vein=42 + contrast * stream.uniform(1.0, 3.0),
        myocardium=48 + 0.45 * contrast,
        liver=stream.uniform(30, 65) + 0.4 * contrast,
    )


def _draw_heart(scan: Scan, thorax: Thorax, enlarged: bool) -> Ellipsoid:
    """Sample a heart whose cardiothoracic ratio matches the label."""
    size = Stream(*scan.patient_key, "heart").uniform(0, 1)
    size = min(max(size + Stream(*scan.key, "heart").uniform(-0.06, 0.06), 0.0), 1.0)
    ratio = CARDIOMEGALY_RATIO + (0.004 + 0.13 * size if enlarged else -0.004 - 0.12 * size)
    stream = Stream(*scan.patient_key, "heart shape")
    cos, sin = 0.82, 0.572364  # the axis points to the left, the front and the feet
    slim, tall = stream.uniform(0.58, 0.66), stream.uniform(0.56, 0.64)
    bottom = (thorax.right_dome + thorax.left_dome) / 2 - stream.uniform(10, 18)
    height = bottom + 45.0
    # The chest's width at the heart's middle and the heart's size depend on each other: iterate.
    for _ in range(12):
        half = ratio * profile(CAVITY, height)[0]
        long = half / math.sqrt(cos * cos + slim * slim * sin * sin)
        height = bottom + tall * long
    depth = long * math.sqrt(sin * sin + slim * slim * cos * cos)
    centre = (0.36 * half + stream.uniform(-5, 5), -86 + depth + stream.uniform(0, 6), height)
    half = ratio * profile(CAVITY, height)[0]
    long = half / math.sqrt(cos * cos + slim * slim * sin * sin)
    return Ellipsoid(centre, (long, slim * long, tall * long), 0.0, turn=(cos, -sin))
