"""Slices as people look at them. Needs no PyTorch."""

import io
from typing import Any

import numpy as np
from PIL import Image

from multi_abnormality.findings import FINDINGS

PIXELS = 160  # a slice's height
QUALITY = 85  # of JPEG files

LUNG, SOFT, BONE = (-600.0, 1500.0), (40.0, 400.0), (400.0, 1800.0)  # HU, centre and width
ALL = (-350.0, 1500.0)  # lung and soft tissue at once
WINDOWS = {
    "Medical material": BONE,
    "Arterial wall calcification": BONE,
    "Coronary artery wall calcification": BONE,
    "Cardiomegaly": SOFT,
    "Pericardial effusion": SOFT,
    "Hiatal hernia": SOFT,
    "Lymphadenopathy": SOFT,
    "Pleural effusion": SOFT,
}  # CT-RATE's others are seen in the lung


def in_scan(volume: np.ndarray) -> np.ndarray:
    """Return which slices lie within the scan: (Z,) bool, of a volume (Z, Y, X) in HU or codes.

    The others are padding: all their voxels have the lowest value. Without any voxel above it, all
    slices count.
    """
    inside: np.ndarray = (volume > volume.min()).any(axis=(1, 2))
    return inside if inside.any() else ~inside


def show(hu: np.ndarray, finding: str, recipe: dict[str, Any]) -> np.ndarray:
    """A slice (Y, X) in HU, in the window of a finding: (PIXELS, ...) float32 from 0 to 255."""
    centre, width = WINDOWS.get(finding, LUNG if finding in FINDINGS else ALL)
    return fit(np.clip((hu - centre) / width + 0.5, 0, 1) * 255, recipe).clip(0, 255)


def fit(pixels: np.ndarray, recipe: dict[str, Any]) -> np.ndarray:
    """Resize (Y, X) to PIXELS rows, its pixels as wide as they are high on the body."""
    (rows, columns), (_, y_mm, x_mm) = pixels.shape, recipe["spacing"]
    size = round(PIXELS * columns * x_mm / (rows * y_mm)), PIXELS
    picture = Image.fromarray(pixels.astype(np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))


def jpeg(pixels: np.ndarray) -> bytes:
    """(Y, X) grey or (Y, X, 3) colour, from 0 to 255."""
    file = io.BytesIO()
    Image.fromarray(np.rint(pixels).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
