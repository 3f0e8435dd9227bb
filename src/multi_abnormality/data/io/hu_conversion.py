"""Conversion of stored values to HU, plane by plane, with checks that they are a CT scan's."""

from collections.abc import Iterable

import numpy as np

from multi_abnormality.data.io.hu_checks import (
    AIR,
    HU_MAX,
    HU_MIN,
    Sample,
    refuse_non_hu,
    refuse_partly_rescaled,
)
from multi_abnormality.utils.errors import UnusableScan

PADDING = -1500  # HU: below are no tissue and no noise, only padding outside the field of view
SAMPLED_VOXELS = 1_000_000  # in all planes


def to_hounsfield(
    planes: Iterable[np.ndarray],
    shape: tuple[int, int, int],
    whole_numbers: bool,
    slope: float = 1.0,
    intercept: float = 0.0,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Compute HU = stored * slope + intercept, clipped to [-1024, 32767].

    Only one plane at a time is held in a wider type, so peak memory is that of the result. A
    constant frame around the field of view becomes air, whatever its value.

    Args:
        planes: arrays of shape[1:], shape[0] of them.
        shape: shape of the result.
        whole_numbers: whether the stored values are integers.

    Returns:
        int16 if all HU are integers, otherwise float32; and notes such as "padding".

    Raises:
        UnusableScan: NaN or infinite voxels, or values that cannot be HU.
    """
    if not (0 < slope < 1e3 and abs(intercept) < 1e5):
        raise UnusableScan(
            f"its rescale (slope {slope:g}, intercept {intercept:g}) cannot lead to HU; "
            "convert the scan again from its source",
            "not HU",
        )
    whole_numbers = whole_numbers and float(slope).is_integer() and float(intercept).is_integer()
    hu = np.empty(shape, np.int16 if whole_numbers else np.float32)
    stride = max(1, hu.size // SAMPLED_VOXELS) | 1  # odd: never the same column in every row
    voxels = []
    for index, plane in enumerate(planes):
        values = _rescale(plane, slope, intercept, whole_numbers)
        if values.dtype.kind == "f" and not np.isfinite((values.min(), values.max())).all():
            raise UnusableScan(
                f"holds NaN or infinite voxels (plane {index} of {shape[0]}); "
                "replace them by -1024 or convert the scan again",
                "NaN voxels",
            )
        # The offset varies by plane, so that different columns are sampled.
        flat = values.ravel()[index % min(stride, values.size) :: stride]
        voxels.append(np.clip(flat, -(HU_MAX + 1), HU_MAX).astype(np.float32))
        np.clip(values, HU_MIN, HU_MAX, out=hu[index], casting="unsafe")
    sample = Sample.of(np.concatenate(voxels))
    frame = _remove_frame(hu, sample.constants)
    rescale = "" if (slope, intercept) == (1, 0) else f" by slope {slope:g} and {intercept:g}"
    for axis in range(3):  # slices may lie along any
        refuse_partly_rescaled(np.moveaxis(hu, axis, 0), sample.constants)
    refuse_non_hu(sample, rescale)
    padded = frame or float(sample.values[0]) < PADDING
    return hu, ("padding",) if padded else ()


def _rescale(plane: np.ndarray, slope: float, intercept: float, whole_numbers: bool) -> np.ndarray:
    if (slope, intercept) == (1.0, 0.0):
        return plane
    if whole_numbers:
        wide = np.dtype(np.int32 if plane.dtype.itemsize <= 2 else np.int64).type
        return plane.astype(wide) * wide(slope) + wide(intercept)
    return plane.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _remove_frame(hu: np.ndarray, constants: np.ndarray) -> bool:
    """Replace a constant frame around the field of view by air; return whether there was one.

    A frame is a value above air that fills all corners of most planes, as far as it is connected to
    the border of a plane.
    """
    corners = hu[:, :: hu.shape[1] - 1, :: hu.shape[2] - 1].reshape(len(hu), -1)
    frames = [
        value
        for value in np.clip(constants, HU_MIN, HU_MAX).astype(hu.dtype)
        if value > AIR[1] and np.mean((corners == value).all(axis=1)) >= 0.5
    ]
    if not frames:
        return False
    for value in frames:
        for plane in hu:
            plane[_reached_from_border(plane == value)] = HU_MIN
    return True


def _reached_from_border(mask: np.ndarray) -> np.ndarray:
    """Return the part of a mask (Y, X) that is connected to the border, by edges of pixels.

    The runs of each row are the nodes of a graph; connected nodes get the lowest number among them.
    """
    padded = np.pad(mask, 1, constant_values=True)  # the ring connects what touches the border
    starts = padded.copy()
    starts[:, 1:] &= ~padded[:, :-1]
    run = np.cumsum(starts).reshape(padded.shape) - 1  # number of the run; 0 is in the ring
    touching = padded[:-1] & padded[1:]
    upper, lower = run[:-1][touching], run[1:][touching]
    root = np.arange(run[-1, -1] + 1)
    while (root[upper] != root[lower]).any():
        lowest = np.minimum(root[upper], root[lower])
        for node in (upper, lower):
            np.minimum.at(root, root[node], lowest)
        while (root != root[root]).any():
            root = root[root]
    reached: np.ndarray = (padded & (root[run] == 0))[1:-1, 1:-1]
    return reached
