"""Metadata of the DICOM series of a CT-RATE volume.

The first release of CT-RATE (v1) stored raw values under a blank header, so its volumes can only be
read with these metadata. The fixed release (v2) has HU and a correct header; the metadata are only
compared with it.
"""

import math
import re
from dataclasses import astuple, dataclass

import numpy as np

from multi_abnormality.utils.errors import UnusableScan

COLUMNS = {
    "slope": "RescaleSlope",
    "intercept": "RescaleIntercept",
    "xy_spacing": "XYSpacing",
    "z_spacing": "ZSpacing",
    "orientation": "ImageOrientationPatient",
    "position": "PatientPosition",
}
DIRECTION_TOLERANCE = 0.01  # absolute, of the products of unit vectors
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Series:
    """A row of the table, as text. Unknown cells are empty or, in CT-RATE, "nan"."""

    slope: str = ""
    intercept: str = ""
    xy_spacing: str = ""  # mm, such as "[0.68, 0.68]"
    z_spacing: str = ""  # mm
    orientation: str = ""  # directions of a slice's rows and columns, LPS: "[1, 0, 0, 0, 1, 0]"
    position: str = ""  # position of the patient, such as "HFS", head first and supine

    @property
    def text(self) -> str:
        """Return all cells as one text, for comparison."""
        return " | ".join(astuple(self))

    @property
    def feet_first(self) -> bool:
        return self.position.upper().startswith("FF")

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Return the spacing along rows, columns and slices, mm; None if unknown."""
        known = (*_numbers(self.xy_spacing, 2), *_numbers(self.z_spacing, 1))
        return known if len(known) == 3 else None

    def rescale(self) -> tuple[float, float]:
        """Return slope and intercept from raw values to HU."""
        return (
            self._need("slope", 1)[0],
            self._need("intercept", 1)[0],
        )

    def affine(self) -> np.ndarray:
        """Return the (4, 4) affine in mm from (column, row, slice) to RAS+, without the origin.

        Directions are relative to the patient, head or feet first (DICOM PS3.3 C.7.6.2.1.1), and
        slices are stacked along the normal, as in v2's headers.

        Raises:
            UnusableScan: a required cell is empty or invalid.
        """
        spacing = (*self._need("xy_spacing", 2), *self._need("z_spacing", 1))
        if min(spacing) <= 0:  # a negative spacing would mirror the patient
            raise self._unusable("xy_spacing" if spacing[2] > 0 else "z_spacing")
        directions = self._need("orientation", 6)
        rows, columns = np.array(directions[:3]), np.array(directions[3:])
        products = [rows @ rows, columns @ columns, rows @ columns]
        if not np.allclose(products, [1, 1, 0], atol=DIRECTION_TOLERANCE):
            raise self._unusable("orientation")
        lps = np.column_stack([rows, columns, np.cross(rows, columns)]) * spacing
        affine = np.eye(4)
        affine[:3, :3] = np.diag([-1, -1, 1]) @ lps
        return affine

    def _need(self, field: str, count: int) -> tuple[float, ...]:
        numbers = _numbers(getattr(self, field), count)
        if not numbers:
            raise self._unusable(field)
        return numbers

    def _unusable(self, field: str) -> UnusableScan:
        return UnusableScan(
            f"has a blank header, as in CT-RATE's first release (v1), and the metadata "
            f"table's {COLUMNS[field]} for it is {getattr(self, field)!r}; take the scan from the "
            "fixed release (v2), or leave it out",
            "geometry",
        )


def _numbers(text: str, count: int) -> tuple[float, ...]:
    """Return the numbers in a cell, or () if their count is another."""
    numbers = tuple(float(number) for number in _NUMBER.findall(text))
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else ()
