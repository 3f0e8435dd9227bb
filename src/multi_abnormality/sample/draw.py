"""From a planned scan to its voxels."""

from collections.abc import Iterator

import numpy as np

from multi_abnormality.sample.anatomy import Subject, draw_subject
from multi_abnormality.sample.body import wall_strokes
from multi_abnormality.sample.canvas import Canvas
from multi_abnormality.sample.cohort import Scan
from multi_abnormality.sample.heart import mediastinum_strokes
from multi_abnormality.sample.lesions.registry import lesion_strokes
from multi_abnormality.sample.outside import outside_strokes
from multi_abnormality.sample.scanner import Protocol, add_noise, axis_places, draw_protocol
from multi_abnormality.sample.settings import DEFAULT_SIZE, DEFAULT_SLICES
from multi_abnormality.sample.skeleton import bone_strokes
from multi_abnormality.sample.strokes import Stroke
from multi_abnormality.sample.trees import airway_strokes, vessel_strokes

SLAB_VOXELS = 400_000  # drawn at a time: bounds the memory, and keeps the work in the cache


def draw_scan(
    scan: Scan, reconstruction: int = 1, size: int = DEFAULT_SIZE, slices: int = DEFAULT_SLICES
) -> tuple[np.ndarray, Protocol]:
    """Draw one reconstruction of a scan.

    Args:
        scan: who is scanned, with the findings to draw.
        reconstruction: from 1 on; each has its own noise and slices.
        size: pixels across the field of view.
        slices: about how many.

    Returns:
        int16 HU, (Z, Y, X), rising to the head, the back and the left, and how it was made.
    """
    subject = draw_subject(scan)
    protocol = draw_protocol(subject, reconstruction, size, slices)
    strokes = _all_strokes(subject)
    noise = subject.scan_stream(f"noise {reconstruction}")
    volume = np.empty((protocol.slices, size, size), np.int16)
    for slab, canvas in _slabs(subject, protocol):
        for stroke in strokes:
            stroke.paint(canvas)
        volume[slab] = add_noise(canvas.hu, protocol, noise)
    return volume, protocol


def _all_strokes(subject: Subject) -> list[Stroke]:
    """What is painted, in order: later strokes cover earlier ones."""
    lesions = lesion_strokes(subject)
    return [
        *wall_strokes(subject),
        *lesions["parenchyma"],
        *vessel_strokes(subject),
        *airway_strokes(subject),
        *lesions["lung"],
        *mediastinum_strokes(subject),
        *lesions["mediastinum"],
        *bone_strokes(subject),
        *lesions["device"],
        *outside_strokes(subject),
    ]


def _slabs(subject: Subject, protocol: Protocol) -> Iterator[tuple[slice, Canvas]]:
    """The volume in slabs of slices, each with an empty canvas in the body frame."""
    across, deep, high = subject.patient.scale
    z = axis_places(protocol.slices, protocol.thickness, protocol.centre[0]) / high
    y = axis_places(protocol.size, protocol.pixel, protocol.centre[1]) / deep
    x = axis_places(protocol.size, protocol.pixel, protocol.centre[2]) / across
    rows = max(1, SLAB_VOXELS // (protocol.size * protocol.size))
    for start in range(0, protocol.slices, rows):
        slab = slice(start, min(start + rows, protocol.slices))
        yield (
            slab,
            Canvas(
                x=x.reshape(1, 1, -1),
                y=y.reshape(1, -1, 1),
                z=z[slab].reshape(-1, 1, 1),
                pixel=protocol.pixel / across,
                thickness=protocol.thickness / high,
            ),
        )
