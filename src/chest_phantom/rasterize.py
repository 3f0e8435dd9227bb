"""Rasterization of a planned scan."""

from collections.abc import Iterator

import numpy as np

from chest_phantom.anatomy import Subject, draw_subject
from chest_phantom.body import wall_strokes
from chest_phantom.canvas import Canvas
from chest_phantom.cohort import Scan
from chest_phantom.external_objects import outside_strokes
from chest_phantom.heart import mediastinum_strokes
from chest_phantom.lesions.registry import lesion_strokes
from chest_phantom.scanner import Protocol, add_noise, axis_coordinates, draw_protocol
from chest_phantom.settings import DEFAULT_SIZE, DEFAULT_SLICES
from chest_phantom.skeleton import bone_strokes
from chest_phantom.strokes import Stroke
from chest_phantom.trees import airway_strokes, vessel_strokes

SLAB_VOXELS = 400_000  # drawn at a time: bounds memory, and fits the cache


def draw_scan(
    scan: Scan, reconstruction: int = 1, size: int = DEFAULT_SIZE, slices: int = DEFAULT_SLICES
) -> tuple[np.ndarray, Protocol]:
    """Draw one reconstruction of a scan.

    Args:
        scan: scan of a patient, with the findings to draw.
        reconstruction: number from 1 on; each has its own noise and slices.
        size: pixels across the field of view.
        slices: approximate number of slices.

    Returns:
        int16 HU, (Z, Y, X), with axes to the head, the back and the left; and the protocol.
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
    """Return all strokes in painting order: later ones cover earlier ones."""
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
    """Yield slabs of slices, each with an empty canvas in the body frame."""
    across, deep, high = subject.patient.scale
    z = axis_coordinates(protocol.slices, protocol.thickness, protocol.centre[0]) / high
    y = axis_coordinates(protocol.size, protocol.pixel, protocol.centre[1]) / deep
    x = axis_coordinates(protocol.size, protocol.pixel, protocol.centre[2]) / across
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
