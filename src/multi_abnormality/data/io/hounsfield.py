"""Stored numbers to HU, a plane at a time, refusing what cannot be a CT scan."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from multi_abnormality.errors import UnusableScan

HU_MIN, HU_MAX = -1024, 32767  # below air there is only padding; above is what int16 cannot hold
PADDING = -1500  # HU: no tissue and no noise is below, but what scanners write outside their view
AIR = (-1100, -500)  # air and lung
SOFT_TISSUE = (-200, 300)
LUNG = (-900, -500)
# Shares of the sampled voxels that are not of one constant value. HU rescaled twice by -1024 have
# their dense bone near 0, up to 0.2 % of a chest. Seven public CTs have 29 % tissue and more.
MIN_AIR = 1e-3
MIN_TISSUE = 0.02
# Lungs cut out on a constant background have 0.3 to 0.5 voxels of tissue for one of lung, whole
# chests 1.8 and more.
MIN_TISSUE_TO_LUNG = 0.7
CUT_OUT_SHARE = 0.2  # of constant voxels, from which on a scan may be cut out
SAMPLED_VOXELS = 1_000_000  # over all planes

# A value is taken for padding or background if it is this frequent, and this many times as
# frequent as the next values: the histogram of a scanner's values is smooth, also where they were
# rounded to steps.
CONSTANT_SHARE = 0.005
CONSTANT_RATIO = 8
# HU by which low, middle and high values of two planes differ if one lacks its rescale.
_MISSING_RESCALE = (600, 1400)
_QUANTILES = (0.05, 0.5, 0.95)
_SAMPLED_LINES = 16  # along each side of a plane, to compare planes by


def to_hounsfield(
    planes: Iterable[np.ndarray],
    shape: tuple[int, int, int],
    whole_numbers: bool,
    path: Path,
    slope: float = 1.0,
    intercept: float = 0.0,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Compute HU = stored * slope + intercept, clipped to [-1024, 32767].

    Only one plane at a time is held in a wider type, so the peak is the result's size. A constant
    frame around the scanner's field of view becomes air, whatever its value.

    Args:
        planes: arrays of shape[1:], shape[0] of them.
        shape: of the result.
        whole_numbers: whether the stored numbers are integers.
        path: file or folder that errors name.
        slope: of the rescale.
        intercept: of the rescale.

    Returns:
        int16 where every HU is whole, else float32; and notes on what was unusual: "padding".

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
    for index, plane in enumerate(planes):
        values = _rescale(plane, slope, intercept, whole_numbers)
        if values.dtype.kind == "f" and not np.isfinite((values.min(), values.max())).all():
            raise UnusableScan(
                f"{path}: holds NaN or infinite voxels (plane {index} of {shape[0]}); "
                "replace them by -1024 or convert the scan again",
                "NaN voxels",
            )
        # A plane of its own start, so that columns are not sampled alike in all.
        flat = values.ravel()[index % min(stride, values.size) :: stride]
        sample.append(np.clip(flat, -(HU_MAX + 1), HU_MAX).astype(np.float32))
        np.clip(values, HU_MIN, HU_MAX, out=hu[index], casting="unsafe")
    constants = _constant_values(np.concatenate(sample))
    frame = _remove_frame(hu, constants)
    rescale = "" if (slope, intercept) == (1, 0) else f" by slope {slope:g} and {intercept:g}"
    _refuse_other_units(np.concatenate(sample), constants, rescale, path)
    for axis in range(3):  # slices may lie along any
        _refuse_planes_of_other_units(np.moveaxis(hu, axis, 0), constants, path)
    padded = frame or min(float(part.min()) for part in sample) < PADDING
    return hu, ("padding",) if padded else ()


def _rescale(plane: np.ndarray, slope: float, intercept: float, whole_numbers: bool) -> np.ndarray:
    if (slope, intercept) == (1.0, 0.0):
        return plane
    if whole_numbers:
        wide = np.dtype(np.int32 if plane.dtype.itemsize <= 2 else np.int64).type
        return plane.astype(wide) * wide(slope) + wide(intercept)
    return plane.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _constant_values(sample: np.ndarray) -> np.ndarray:
    """Values that padding and background have, of a sample of HU."""
    values, counts = np.unique(sample, return_counts=True)
    found = []
    for place in np.flatnonzero(counts >= CONSTANT_SHARE * sample.size).tolist():
        low = max(0, place - 2)
        others = np.sort(np.delete(counts[low : place + 3], place - low))
        # The second of those next to it: constants may come in pairs.
        if not others.size or counts[place] > CONSTANT_RATIO * others[-2:][0]:
            found.append(values[place])
    return np.array(found, np.float32)


def _remove_frame(hu: np.ndarray, constants: np.ndarray) -> bool:
    """Make air of a constant that fills the planes' corners and is no air: of what lies around the
    field of view. Whether there was such a frame.
    """
    corners = hu[:, :: hu.shape[1] - 1, :: hu.shape[2] - 1].reshape(len(hu), -1)
    frames = [
        value
        for value in np.clip(constants, HU_MIN, HU_MAX).astype(hu.dtype)
        if value > AIR[1] and np.mean((corners == value).all(axis=1)) >= 0.5
    ]
    for value in frames:
        for plane in hu:
            plane[_connected_to_border(plane == value)] = HU_MIN
    return bool(frames)


def _connected_to_border(mask: np.ndarray) -> np.ndarray:
    """(Y, X) bool: the parts of a mask that touch the border of the plane."""
    region = np.zeros_like(mask)
    region[[0, -1]], region[:, [0, -1]] = mask[[0, -1]], mask[:, [0, -1]]
    size = -1
    while size != np.count_nonzero(region):
        size = int(np.count_nonzero(region))
        for axis in (0, 1):
            for flipped in (False, True):
                region |= _spread(region, mask, axis, flipped)
    return region


def _spread(region: np.ndarray, mask: np.ndarray, axis: int, flipped: bool) -> np.ndarray:
    """Where a mask goes on without a gap from a region along an axis."""
    if flipped:
        return np.flip(_spread(np.flip(region, axis), np.flip(mask, axis), axis, False), axis)
    index = np.arange(1, mask.shape[axis] + 1)
    index = index[:, None] if axis == 0 else index[None]
    last_inside = np.maximum.accumulate(np.where(region, index, 0), axis)
    last_gap = np.maximum.accumulate(np.where(mask, 0, index), axis)
    return mask & (last_inside > last_gap)


def _refuse_other_units(whole: np.ndarray, constants: np.ndarray, rescale: str, path: Path) -> None:
    """Refuse raw values without their rescale, values rescaled twice, and other modalities.

    Shares are counted without the values that are constant: padding of -2000 or -8192 outside the
    field of view occurs in raw values as well as in HU, and a background of -1000 or 0 looks like
    air or tissue.
    """
    values = whole[~np.isin(whole, constants)] if constants.size else whole
    span = f"values from {whole.min():g} to {whole.max():g}{rescale}"
    if constants.size:
        span += f", of them {', '.join(f'{value:g}' for value in constants)} constant"
    air, tissue, lung = (
        np.count_nonzero((values >= low) & (values <= high)) / max(values.size, 1)
        for low, high in (AIR, SOFT_TISSUE, LUNG)
    )
    if air < MIN_AIR:
        raise UnusableScan(
            f"{path}: does not look like HU: no air near -1000 ({span}). Raw CT values without "
            "their rescale? Store HU = value * RescaleSlope + RescaleIntercept",
            "not HU",
        )
    if tissue < MIN_TISSUE:
        raise UnusableScan(
            f"{path}: does not look like HU: hardly any soft tissue near 0 ({span}). Rescaled "
            "twice? Convert the scan again from its source",
            "not HU",
        )
    if tissue < MIN_TISSUE_TO_LUNG * lung and values.size < (1 - CUT_OUT_SHARE) * whole.size:
        raise UnusableScan(
            f"{path}: only the lungs are there, cut out on a constant background ({span}); "
            "give the whole scan",
            "not HU",
        )


def _refuse_planes_of_other_units(planes: np.ndarray, constants: np.ndarray, path: Path) -> None:
    """Refuse a scan in which some slices have their rescale and others do not."""
    count, *sides = planes.shape
    lines = [slice(None, None, max(1, side // _SAMPLED_LINES)) for side in sides]
    values = planes[:, lines[0], lines[1]].reshape(count, -1)
    is_used = values > HU_MIN
    for constant in np.clip(constants, HU_MIN, HU_MAX):
        is_used &= values != constant
    used = np.flatnonzero(is_used.sum(1) >= 20)  # others are padding alone
    means = np.where(is_used, values, 0).sum(1)[used] / is_used.sum(1)[used]
    for place in np.flatnonzero(np.abs(np.diff(means)) > _MISSING_RESCALE[0] / 2).tolist():
        below, above = (
            np.quantile(values[index][is_used[index]], _QUANTILES)
            for index in used[place : place + 2]
        )
        offset = above - below
        is_missing = (np.abs(offset) > _MISSING_RESCALE[0]) & (np.abs(offset) < _MISSING_RESCALE[1])
        if is_missing.all() and np.unique(np.sign(offset)).size == 1:
            raise UnusableScan(
                f"{path}: does not look like HU: all values of plane {used[place + 1]} lie about "
                f"{np.abs(offset).mean():.0f} from those of the plane before, as where the rescale "
                "is missing in a part; convert the scan again from its source",
                "not HU",
            )
