"""Rendering of slices in CT windows. Does not import PyTorch."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from multi_abnormality.config.findings import FINDINGS

WEBP_QUALITY = 70
HEAT_RGB = np.array([255.0, 120.0, 0.0])
OPACITY = 0.6  # of the highest heat
HEAT_FROM = 0.3  # fraction of the highest heat from which heat is drawn

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


def window_name(finding: str) -> str:
    """Return the name of a finding's window, such as "soft tissue"."""
    return WINDOW_NAMES[window_of(finding)]


def describe_window(finding: str) -> str:
    """Return the name of a finding's window with its centre and width."""
    centre, width = window_of(finding)
    return f"{window_name(finding)} window (centre {centre:g}, width {width:g} HU)"


def resize_isotropic(pixels: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Resize (Y, X) to square pixels in mm, with as many rows.

    Args:
        pixels: slice.
        spacing: mm, (z, y, x), of its voxels.
    """
    (rows, columns), (_, y_mm, x_mm) = pixels.shape, spacing
    size = max(round(columns * x_mm / y_mm), 1), rows
    picture = Image.fromarray(pixels.astype(np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))


def draw_slice(hu: np.ndarray, finding: str, spacing: Sequence[float]) -> bytes:
    """Draw a slice (Y, X) in HU in a finding's window, at its own resolution, as a WebP file."""
    centre, width = window_of(finding)
    grey = np.clip((hu - centre) / width + 0.5, 0, 1) * 255
    return webp(resize_isotropic(grey, spacing).clip(0, 255))


def draw_heat(heat: np.ndarray, spacing: Sequence[float]) -> bytes:
    """Draw a heat map (Y, X) from 0 to 1 as a WebP file, transparent up to HEAT_FROM."""
    drawn = (resize_isotropic(heat, spacing) - HEAT_FROM) / (1 - HEAT_FROM)
    opacity = 255 * OPACITY * drawn.clip(0, 1)[..., None]
    color = np.broadcast_to(HEAT_RGB, (*opacity.shape[:2], 3))
    return webp(np.concatenate([color, opacity], axis=2))


def webp(pixels: np.ndarray) -> bytes:
    """Encode pixels from 0 to 255, (Y, X) grey or (Y, X, 4) with opacity, as a WebP file."""
    file = io.BytesIO()
    picture = Image.fromarray(np.rint(pixels).astype(np.uint8))
    picture.convert("RGB" if pixels.ndim == 2 else "RGBA").save(file, "WEBP", quality=WEBP_QUALITY)
    return file.getvalue()
