"""Draws docs/images/sample.png from the sample scans: `python docs/sample_picture.py`."""

from pathlib import Path

import numpy as np
from PIL import Image

from multi_abnormality.data.io.read import read_volume

SCANS = ("valid_1_a_1", "valid_2_a_1", "valid_4_a_1")  # a row each
HEIGHTS = (0.25, 0.37, 0.46, 0.55, 0.67, 0.8)  # shares of the volume, from its lowest slice
WINDOWS = ((-600, 1500), (40, 400))  # HU (centre, width): lung and mediastinum, in turn
SIDE = 150  # pixels


def picture(scan: str) -> np.ndarray:
    """A row of slices, lung and mediastinal window in turn."""
    hu = read_volume(next(Path("data").rglob(f"{scan}.nii.gz"))).hu
    row = []
    for number, height in enumerate(HEIGHTS):
        centre, width = WINDOWS[number % len(WINDOWS)]
        shown = np.clip((hu[int(height * len(hu))] - centre) / width + 0.5, 0, 1) * 255
        image = Image.fromarray(shown.astype(np.uint8))
        row.append(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
    return np.concatenate(row, axis=1)


def main() -> None:
    sheet = Image.fromarray(np.concatenate([picture(scan) for scan in SCANS]))
    sheet.quantize(64).save("docs/images/sample.png", optimize=True)


if __name__ == "__main__":
    main()
