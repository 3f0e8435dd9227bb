"""Rendering of slices in CT windows. Does not import PyTorch."""

import io
from typing import Any

import numpy as np
from PIL import Image

from multi_abnormality.config.findings import FINDINGS

PIXELS = 160  # height of a slice
QUALITY = 85  # JPEG quality

LUNG, SOFT, BONE = (-600.0, 1500.0), (40.0, 400.0), (400.0, 1800.0)  # HU, centre and width
ALL = (-350.0, 1500.0)  # lung and soft tissue
WINDOWS = {
    "Medical material": BONE,
    "Arterial wall calcification": BONE,
    "Coronary artery wall calcification": BONE,
    "Cardiomegaly": SOFT,
    "Pericardial effusion": SOFT,
    "Hiatal hernia": SOFT,
    "Lymphadenopathy": SOFT,
    "Pleural effusion": SOFT,
}  # lung window for CT-RATE's other findings


def in_scan(volume: np.ndarray) -> np.ndarray:
    """Return which slices lie within the scan: (Z,) bool, of a volume (Z, Y, X) in HU or codes.

    All voxels of padding have the lowest value. In a constant volume all slices lie within.
    """
    inside: np.ndarray = (volume > volume.min()).any(axis=(1, 2))
    return inside if inside.any() else ~inside


def apply_window(hu: np.ndarray, finding: str, recipe: dict[str, Any]) -> np.ndarray:
    """Apply a finding's window to a slice (Y, X) in HU: (PIXELS, ...) float32 from 0 to 255."""
    centre, width = WINDOWS.get(finding, LUNG if finding in FINDINGS else ALL)
    return resize_isotropic(np.clip((hu - centre) / width + 0.5, 0, 1) * 255, recipe).clip(0, 255)


def resize_isotropic(pixels: np.ndarray, recipe: dict[str, Any]) -> np.ndarray:
    """Resize (Y, X) to PIXELS rows, with square pixels in mm."""
    (rows, columns), (_, y_mm, x_mm) = pixels.shape, recipe["spacing"]
    size = round(PIXELS * columns * x_mm / (rows * y_mm)), PIXELS
    picture = Image.fromarray(pixels.astype(np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))


def jpeg(pixels: np.ndarray) -> bytes:
    """Encode pixels from 0 to 255, (Y, X) grey or (Y, X, 3) colour, as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(np.rint(pixels).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
