"""Stored numbers to HU, a plane at a time, refusing what cannot be a CT scan."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from multi_abnormality.errors import UnusableScan

HU_MIN, HU_MAX = -1024, 32767  # below air there is only padding; above is what int16 cannot hold
AIR = (-1100, -500)  # air and lung
SOFT_TISSUE = (-200, 300)
SMALLEST_AIR = 1e-3
# HU rescaled twice by -1024 have their dense bone here, up to 0.1 % of a chest. Seven public CTs
# have 26 % and more.
SMALLEST_TISSUE = 0.02
SAMPLED_VOXELS = 1_000_000  # voxels looked at to tell whether the values are HU
PADDING = -1500  # HU: no tissue and no noise is below, but what scanners write outside their view


@dataclass(frozen=True, eq=False)
class Scan:
    """A file's voxels, in its own axis order."""

    hu: np.ndarray  # (I, J, K) int16 or float32, at least -1024
    affine: np.ndarray  # (4, 4), mm, to RAS+ coordinates
    padded: bool  # whether some voxels held less than any tissue
    release: str = "v2"  # of CT-RATE: v1 has raw values under a blank header


def to_hounsfield(
    planes: Iterable[np.ndarray],
    shape: tuple[int, int, int],
    whole_numbers: bool,
    path: Path,
    slope: float = 1.0,
    intercept: float = 0.0,
) -> tuple[np.ndarray, bool]:
    """HU = stored * slope + intercept, clipped to [-1024, 32767].

    Only one plane at a time is held in a wider type, so the peak is the result's size.

    Args:
        planes: arrays of shape[1:], shape[0] of them.
        whole_numbers: whether the stored numbers are integers.

    Returns:
        int16 where every HU is whole, else float32; and whether there was padding.

    Raises:
        UnusableScan: NaN or infinite voxels, or values that cannot be HU.
    """
    if not (0 < slope < 1e3 and abs(intercept) < 1e5):
        raise UnusableScan(
            f"{path}: its rescale (slope {slope:g}, intercept {intercept:g}) cannot lead to HU; "
            "convert the scan again from its source",
            "not HU",
        )
    whole_numbers = whole_numbers and float(slope).is_integer() and float(intercept).is_integer()
    hu = np.empty(shape, np.int16 if whole_numbers else np.float32)
    stride = max(1, hu.size // SAMPLED_VOXELS) | 1  # odd: never the same column in every row
    sample = []
    lowest = np.inf
    for index, plane in enumerate(planes):
        values = _rescale(plane, slope, intercept, whole_numbers)
        if values.dtype.kind == "f" and not np.isfinite((values.min(), values.max())).all():
            raise UnusableScan(
                f"{path}: holds NaN or infinite voxels (plane {index} of {shape[0]}); "
                "replace them by -1024 or convert the scan again",
                "NaN voxels",
            )
        lowest = min(lowest, values.min())
        sample.append(values.ravel()[::stride].astype(np.float32))
        np.clip(values, HU_MIN, HU_MAX, out=hu[index], casting="unsafe")
    rescale = "" if (slope, intercept) == (1, 0) else f" by slope {slope:g} and {intercept:g}"
    _refuse_other_units(np.concatenate(sample), rescale, path)
    return hu, bool(lowest < PADDING)


def _rescale(plane: np.ndarray, slope: float, intercept: float, whole_numbers: bool) -> np.ndarray:
    if (slope, intercept) == (1.0, 0.0):
        return plane
    if whole_numbers:
        wide = np.dtype(np.int32 if plane.dtype.itemsize <= 2 else np.int64).type
        return plane.astype(wide) * wide(slope) + wide(intercept)
    return plane.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _refuse_other_units(sample: np.ndarray, rescale: str, path: Path) -> None:
    """Refuse raw values without their rescale, values rescaled twice, and other modalities.

    Shares are counted, since a single value says nothing: padding of -2000 or -8192 outside the
    field of view occurs in raw values as well as in HU.
    """
    air, tissue = (
        np.count_nonzero((sample >= low) & (sample <= high)) / sample.size
        for low, high in (AIR, SOFT_TISSUE)
    )
    span = f"values from {sample.min():g} to {sample.max():g}{rescale}"
    if air < SMALLEST_AIR:
        raise UnusableScan(
            f"{path}: does not look like HU: no air near -1000 ({span}). Raw CT values without "
            "their rescale? Store HU = value * RescaleSlope + RescaleIntercept",
            "not HU",
        )
    if tissue < SMALLEST_TISSUE:
        raise UnusableScan(
            f"{path}: does not look like HU: hardly any soft tissue near 0 ({span}). Rescaled "
            "twice? Convert the scan again from its source",
            "not HU",
        )
