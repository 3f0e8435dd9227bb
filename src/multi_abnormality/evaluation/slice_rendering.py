"""Rendering of slices in CT windows. Does not import PyTorch."""

import io
from typing import Any

import numpy as np
from PIL import Image

from multi_abnormality.config.findings import FINDINGS

PIXELS = 160  # height of a slice
QUALITY = 85  # JPEG quality

WEBP_QUALITY = 70

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


WINDOW_NAMES = {LUNG: "lung", SOFT: "soft tissue", BONE: "bone", ALL: "lung and soft tissue"}


def in_scan(volume: np.ndarray) -> np.ndarray:
    """Return which slices lie within the scan: (Z,) bool, of a volume (Z, Y, X) in HU or codes.

    All voxels of padding have the lowest value. In a constant volume all slices lie within.
    """
    inside: np.ndarray = (volume > volume.min()).any(axis=(1, 2))
    return inside if inside.any() else ~inside


def window_of(finding: str) -> tuple[float, float]:
    """Return the centre and width, in HU, of the window that a finding is shown in."""
    return WINDOWS.get(finding, LUNG if finding in FINDINGS else ALL)


def describe_window(finding: str) -> str:
    """Return the name of a finding's window with its centre and width."""
    centre, width = window = window_of(finding)
    return f"{WINDOW_NAMES[window]} window (centre {centre:g}, width {width:g} HU)"


def apply_window(
    hu: np.ndarray, finding: str, recipe: dict[str, Any], height: int = PIXELS
) -> np.ndarray:
    """Apply a finding's window to a slice (Y, X) in HU: (height, ...) float32 from 0 to 255."""
    centre, width = window_of(finding)
    grey = np.clip((hu - centre) / width + 0.5, 0, 1) * 255
    return resize_isotropic(grey, recipe, height).clip(0, 255)


def resize_isotropic(
    pixels: np.ndarray, recipe: dict[str, Any], height: int = PIXELS
) -> np.ndarray:
    """Resize (Y, X) to `height` rows, with square pixels in mm."""
    (rows, columns), (_, y_mm, x_mm) = pixels.shape, recipe["spacing"]
    size = round(height * columns * x_mm / (rows * y_mm)), height
    picture = Image.fromarray(pixels.astype(np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))


def jpeg(pixels: np.ndarray) -> bytes:
    """Encode pixels from 0 to 255, (Y, X) grey or (Y, X, 3) colour, as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(np.rint(pixels).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def webp(pixels: np.ndarray) -> bytes:
    """Encode pixels from 0 to 255, (Y, X) grey or (Y, X, 4) with opacity, as a WebP file."""
    file = io.BytesIO()
    picture = Image.fromarray(np.rint(pixels).astype(np.uint8))
    picture.convert("RGB" if pixels.ndim == 2 else "RGBA").save(file, "WEBP", quality=WEBP_QUALITY)
    return file.getvalue()
