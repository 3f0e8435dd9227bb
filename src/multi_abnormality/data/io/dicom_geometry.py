"""Positions of DICOM slices, and checks that they form one volume."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from multi_abnormality.data.io.dicom_headers import DicomSlice, tag_name
from multi_abnormality.utils.errors import UnusableScan

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
MAX_ANGLE = (
    1.0  # degrees between directions that count as equal, or off 90 between rows and columns
)
MAX_UNIT_ERROR = 0.05  # of the length of a direction: two decimals make 0.01
MAX_SPACING_ERROR = 0.01  # relative, between slices
MAX_WOBBLE = 1.0  # mm, or half a pixel: lateral offset of a slice from the line through all
SAME_POSITION = 1e-3  # mm
MAX_DISTANCE_ERROR = 0.1  # deviation from even spacing, relative to the slice distance
MISSING_SLICE = 1.5  # times the usual distance
MIN_RUN = 3  # consecutive differing distances that count as a second slice distance
# Rounding moves a number by half of its last digit, and least squares adds a little. If the last
# digit is a larger part of the slice distance, rounding resembles missing slices.
ROUNDING = 0.6
MAX_COARSENESS = 0.5


@dataclass(frozen=True, eq=False)
class Plane:
    """Position and orientation of a slice, in mm, LPS."""

    position: np.ndarray  # (3,) centre of the first voxel
    row: np.ndarray  # (3,) unit vector along a row, to the next column
    column: np.ndarray  # (3,) unit vector along a column, to the next row
    spacing: tuple[float, float]  # distance between rows, and between columns
    size: tuple[int, int]  # number of rows and columns

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.row, self.column)

    def is_like(self, other: "Plane") -> bool:
        """Return whether orientation, spacing and size are equal within tolerance."""
        return (
            self.size == other.size
            and all(
                abs(own - others) <= MAX_SPACING_ERROR * others
                for own, others in zip(self.spacing, other.spacing, strict=True)
            )
            and min(self.row @ other.row, self.column @ other.column)
            >= np.cos(np.radians(MAX_ANGLE))
        )


def plane_of(one: DicomSlice) -> Plane:
    """Return the geometry of a slice from its tags, none of which has a default."""
    spacing = one.numbers("PixelSpacing", 2)
    if min(spacing) <= 0:
        one.refuse(f"its {tag_name('PixelSpacing')} is {one.text('PixelSpacing')}", "geometry")
    directions = _directions(one.numbers("ImageOrientationPatient", 6))
    if directions is None:
        one.refuse(
            f"its {tag_name('ImageOrientationPatient')} is {one.text('ImageOrientationPatient')}, "
            "not two directions at right angles",
            "geometry",
        )
    return Plane(
        position=np.array(one.numbers("ImagePositionPatient", 3)),
        row=directions[0],
        column=directions[1],
        spacing=(spacing[0], spacing[1]),
        size=(one.whole("Rows"), one.whole("Columns")),
    )


@lru_cache  # most slices of a series have the same
def _directions(orientation: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return unit vectors along a row and a column, or None if they are not at right angles."""
    directions = np.reshape(orientation, (2, 3))
    lengths = np.linalg.norm(directions, axis=1)
    if np.abs(lengths - 1).max() > MAX_UNIT_ERROR:
        return None
    directions = directions / lengths[:, None]
    cosine = float(directions[0] @ directions[1])
    if abs(cosine) > np.sin(np.radians(MAX_ANGLE)):
        return None
    column = directions[1] - cosine * directions[0]
    return directions[0], column / np.linalg.norm(column)


def fit_affine(slices: Sequence[DicomSlice], planes: Sequence[Plane]) -> np.ndarray:
    """Fit the (4, 4) affine in mm from (column, row, slice) to RAS+; sheared for a tilted gantry.

    Args:
        slices: slices sorted by position along the normal of the first.

    Raises:
        UnusableScan: slices are missing, or are not evenly spaced on a line.
    """
    first = planes[0]
    normal = first.normal
    positions = np.array([plane.position for plane in planes])
    index = np.arange(len(planes))
    line = np.polynomial.polynomial.polyfit(index, positions, 1)  # (2, 3)
    off = positions - line[0] - index[:, None] * line[1]
    step = float(line[1] @ normal)
    gaps = np.diff(positions @ normal)
    digit = _last_digit(positions)
    digit = digit if digit <= MAX_COARSENESS * step else 0.0
    _refuse_two_distances(slices, gaps, digit)
    _check_gaps(slices, gaps)
    along = off @ normal
    rounding = ROUNDING * digit
    if np.abs(along).max() > max(MAX_DISTANCE_ERROR * step, rounding * np.abs(normal).sum()):
        worst = int(np.abs(along).argmax())
        raise _uneven(
            f"{slices[worst]} lies {abs(along[worst]):.2f} mm from where it would with slices "
            f"every {step:.3f} mm{thicknesses(slices)}"
        )
    beside = np.linalg.norm(off - along[:, None] * normal, axis=1)
    if beside.max() > max(MAX_WOBBLE, min(first.spacing) / 2):
        worst = int(beside.argmax())
        raise _uneven(f"{slices[worst]} lies {beside[worst]:.2f} mm beside the others")
    affine = np.eye(4)
    affine[:3, 0] = first.row * first.spacing[1]
    affine[:3, 1] = first.column * first.spacing[0]
    affine[:3, 2] = line[1].round(9)
    affine[:3, 3] = first.position
    affine[:3] = LPS_TO_RAS @ affine[:3]
    return affine


def _check_gaps(slices: Sequence[DicomSlice], gaps: np.ndarray) -> None:
    # Mean of the distances near the median: rounded distances alternate.
    usual = float(np.median(gaps))
    usual = float(gaps[gaps <= MISSING_SLICE * usual + SAME_POSITION].mean())
    for gap, (below, above) in zip(gaps, pairwise(slices), strict=True):
        if gap > MISSING_SLICE * usual + 2 * SAME_POSITION:
            raise _uneven(
                f"{below.name} and {above.name} are {gap:.2f} mm apart, where {usual:.2f} mm is "
                f"usual{thicknesses(slices)}: slices are missing"
            )


def _refuse_two_distances(slices: Sequence[DicomSlice], gaps: np.ndarray, digit: float) -> None:
    """Refuse different slice distances in different parts; `digit` is the rounding unit, mm."""
    usual = float(np.median(gaps))
    is_other = np.abs(gaps - usual) > max(MAX_DISTANCE_ERROR * usual, 1.01 * digit)
    ends = np.flatnonzero(np.diff(np.concatenate([[False], is_other, [False]])))
    runs = [(start, end) for start, end in zip(ends[::2], ends[1::2], strict=True)]
    start, end = max(runs, key=lambda run: run[1] - run[0], default=(0, 0))
    if (
        end - start < MIN_RUN
        or np.ptp(gaps[start:end]) > MAX_DISTANCE_ERROR * gaps[start:end].max()
    ):
        return
    raise UnusableScan(
        f"its slices lie {usual:.2f} mm apart, but {gaps[start:end].mean():.2f} mm from "
        f"{slices[start].name} to {slices[end].name}{thicknesses(slices)}: two slice distances "
        "under one series; export each part as a series",
        "geometry",
    )


def thicknesses(slices: Sequence[DicomSlice]) -> str:
    """List the different values of SliceThickness for an error; "" if all are equal."""
    values = sorted({value for one in slices if (value := thickness_of(one))}, key=float)
    if len(values) < 2:
        return ""
    return f" ({tag_name('SliceThickness')} {' and '.join(values[:MIN_RUN])} mm)"


def thickness_of(one: DicomSlice) -> str:
    """Return SliceThickness as normalized text; "" if it is missing or not a number."""
    try:
        value = float(one.text("SliceThickness"))
    except ValueError:
        return ""
    return f"{value:g}" if np.isfinite(value) else ""


def _last_digit(positions: np.ndarray) -> float:
    """Return the largest power of ten, at most 1, that all coordinates are multiples of."""
    for decimals in range(6):
        if np.allclose(positions, positions.round(decimals), rtol=0, atol=1e-7):
            return 10.0**-decimals
    return 0.0


def _uneven(what: str) -> UnusableScan:
    return UnusableScan(f"{what}; export the whole series again", "geometry")
