"""Example slices for the report."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from multi_abnormality.data.resample import code_table
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.evaluation import THRESHOLD
from multi_abnormality.params import Recipe, parse_section

SCANS = 4
HEIGHTS = (0.3, 0.5, 0.7)  # shares of the volume, from its lowest slice
WINDOWS = ((-600, 1500), (40, 400))  # HU (centre, width): lung above, mediastinum below
PIXELS = 160  # a slice's side


def example_slices(
    volumes: ProcessedSet, names: Sequence[str], labels: np.ndarray, probabilities: np.ndarray
) -> list[tuple[str, bytes]]:
    """A sheet of slices of a few scans, with a caption of what was there and what was seen.

    Args:
        names: N volumes.
        labels: (N, F), 0 or 1.
        probabilities: (N, F).

    Returns:
        (caption, PNG file), the scans evenly spread over `names`.
    """
    hu_of_code = code_table(parse_section(Recipe, volumes.recipe))
    sheets = []
    for row in range(0, len(names), max(len(names) // SCANS, 1))[:SCANS]:
        present, seen = labels[row] == 1, probabilities[row] >= THRESHOLD
        caption = (
            f"{names[row]}: {present.sum()} findings present, {(present & seen).sum()} of them "
            f"seen, {(~present & seen).sum()} seen that are absent"
        )
        sheets.append((caption, _sheet(hu_of_code[volumes.read(names[row])], volumes.recipe)))
    return sheets


def _sheet(hu: np.ndarray, recipe: dict) -> bytes:
    """Slices of a volume (Z, Y, X) in HU from low to high, a row a window, as a PNG file."""
    rows = []
    for centre, width in WINDOWS:
        shown = np.clip((hu - centre) / width + 0.5, 0, 1) * 255
        slices = [_square(shown[int(height * len(hu))], recipe) for height in HEIGHTS]
        rows.append(np.concatenate(slices, axis=1))
    file = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(file, "PNG", optimize=True)
    return file.getvalue()


def _square(pixels: np.ndarray, recipe: dict) -> np.ndarray:
    """One slice as (PIXELS, ...) uint8, its pixels as wide as they are high on the body."""
    (height, width), (_, y_mm, x_mm) = pixels.shape, recipe["spacing"]
    size = round(PIXELS * width * x_mm / (height * y_mm)), PIXELS
    picture = Image.fromarray(np.rint(pixels).astype(np.uint8))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
