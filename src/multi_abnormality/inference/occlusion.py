"""Heat maps by occlusion: how far a slice's logit falls when a part of the slice is hidden.

Zeiler and Fergus 2014, arXiv:1311.2901. It needs only the model's outputs, so it runs on ONNX
Runtime for every backbone. A hidden square is replaced by a blurred copy of itself, since a square
of air would be a structure of its own. A volume of copies of the slice, each with another square
hidden, is predicted at once.
"""

from collections.abc import Callable, Sequence

import numpy as np

Logits = Callable[[np.ndarray], np.ndarray]  # (Z, Y, X) uint8 codes to (F, Z) logits of slices

SQUARES = 6  # sides of a hidden square that the shorter side of a slice has
MIN_CHANGE = 4  # codes; a square that changes less, as in air, is not tried


def heat_maps(
    slice_logits: Logits, codes: np.ndarray, z: int, findings: Sequence[int], adjacent: int
) -> np.ndarray:
    """Compute the heat maps of a slice for some findings.

    Args:
        slice_logits: the model.
        codes: (Z, Y, X) uint8, a volume.
        z: index of the slice.
        findings: indices of K findings.
        adjacent: slices that the model sees as one, an odd number.

    Returns:
        (K, Y, X) float32 from 0 to 1, its maximum; all 0 where hiding no part lowers the logit.
    """
    depth = len(codes)
    around = np.arange(z - adjacent // 2, z + adjacent // 2 + 1).clip(0, depth - 1)
    block = codes[around]
    side = max(2, round(min(block.shape[1:]) / SQUARES))
    blurred = _box_blur(block, side)
    corners = _changing_squares(block, blurred, side)
    per_run = max(depth // adjacent, 1)
    centres = (np.arange(per_run) * adjacent + adjacent // 2).clip(0, depth - 1)
    volume = np.zeros_like(codes)
    volume[: per_run * adjacent] = np.tile(block, (per_run, 1, 1))[:depth]
    whole = slice_logits(volume)[findings][:, centres]
    falls = []
    for start in range(0, len(corners), per_run):
        hidden = volume.copy()
        for index, corner in enumerate(corners[start : start + per_run]):
            copies = slice(index * adjacent, (index + 1) * adjacent)
            square = tuple(slice(max(first, 0), first + side) for first in corner)
            hidden[copies, *square] = blurred[:, *square]
        falls.append(whole - slice_logits(hidden)[findings][:, centres])
    fall = np.concatenate([np.zeros((len(findings), 0), np.float32), *falls], axis=1)
    return _normalized(_spread(fall, corners, side, block.shape[1:]))


def _spread(
    fall: np.ndarray, corners: Sequence[tuple[int, int]], side: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Average the falls (K, S) of squares where they overlap, weighted by a hat: (K, Y, X)."""
    slope = 1 - np.abs((np.arange(side) + 0.5) * 2 / side - 1)
    weight = np.outer(slope, slope)
    total = np.zeros((len(fall), *(length + 2 * side for length in shape)))
    count = np.zeros(total.shape[1:])
    for index, (y, x) in enumerate(corners):
        square = slice(y + side, y + 2 * side), slice(x + side, x + 2 * side)
        total[:, *square] += fall[:, index, None, None] * weight
        count[square] += weight
    mean: np.ndarray = total / np.where(count > 0, count, 1)
    return mean[:, side:-side, side:-side]


def _normalized(fall: np.ndarray) -> np.ndarray:
    """Scale the highest fall of each map (K, Y, X) to 1, and leave out where the logit rises."""
    highest = fall.max(axis=(1, 2), keepdims=True)
    heat = fall.clip(0) / np.where(highest > 0, highest, 1)
    return heat.astype(np.float32)


def _changing_squares(block: np.ndarray, blurred: np.ndarray, side: int) -> list[tuple[int, int]]:
    """Return the corners of overlapping squares that differ in the two (A, Y, X) blocks."""
    step = -(-side // 2)
    change = np.abs(block.astype(np.int16) - blurred).max(axis=0) >= MIN_CHANGE
    height, width = change.shape
    return [
        (y, x)
        for y in range(step - side, height, step)
        for x in range(step - side, width, step)
        if change[max(y, 0) : y + side, max(x, 0) : x + side].any()
    ]


def _box_blur(block: np.ndarray, reach: int) -> np.ndarray:
    """Return the (A, Y, X) block with each voxel the mean of a square around it in its slice."""
    values = block.astype(np.float64)
    length = 2 * reach + 1
    for axis in (1, 2):
        padding = [(0, 0)] * 3
        padding[axis] = (reach + 1, reach)
        total = np.pad(values, padding, mode="edge").cumsum(axis=axis)
        upper = np.take(total, np.arange(length, total.shape[axis]), axis=axis)
        lower = np.take(total, np.arange(total.shape[axis] - length), axis=axis)
        values = (upper - lower) / length
    return np.rint(values).astype(np.uint8)
