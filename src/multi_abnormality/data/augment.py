"""Augmentation: what changes is drawn on the host, and applied on the device.

No left-right flips: the heart's side and the aortic arch carry meaning.
"""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional

ROTATION = 5.0  # degrees, the largest, about the body's axis
SCALE = 0.05  # share, the largest
SHIFT = 0.05  # share of half the slice, the largest
OFFSET = 10.0  # HU, the largest
GAIN = 0.03  # share, the largest


@dataclass(frozen=True)
class Draw:
    """One volume's draw."""

    slices: np.ndarray  # (S,) indices of the slices used, rising
    affine: np.ndarray  # (2, 3) float32, from output to input coordinates, as affine_grid takes it
    intensity: np.ndarray  # (2,) float32: gain, and offset in HU


def draw(rng: np.random.Generator, depth: int, slices: int) -> Draw:
    """Draw for a volume of `depth` slices, of which `slices` are used, one of each equal part."""
    angle = math.radians(rng.uniform(-ROTATION, ROTATION))
    scale = 1 + rng.uniform(-SCALE, SCALE)
    shift = rng.uniform(-SHIFT, SHIFT, size=2)
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    affine = [[cosine, -sine, shift[0]], [sine, cosine, shift[1]]]
    intensity = [1 + rng.uniform(-GAIN, GAIN), rng.uniform(-OFFSET, OFFSET)]
    return Draw(
        slices=draw_slices(rng, depth, slices),
        affine=np.asarray(affine, np.float32),
        intensity=np.asarray(intensity, np.float32),
    )


def draw_slices(rng: np.random.Generator, depth: int, slices: int) -> np.ndarray:
    """(S,) rising indices, one drawn from each of `slices` equal parts of the volume."""
    if slices >= depth:
        return np.arange(depth)
    edges = np.arange(slices + 1) * depth / slices
    places = edges[:-1] + rng.random(slices) * (edges[1:] - edges[:-1])
    return np.minimum(places.astype(np.int64), depth - 1)


def apply(hu: Tensor, affine: Tensor, intensity: Tensor) -> Tensor:
    """Move, turn, scale and re-grade each volume.

    Args:
        hu: (N, S, Y, X) float32, in HU.
        affine: (N, 2, 3), see Draw.
        intensity: (N, 2), see Draw.

    Returns:
        (N, S, Y, X), with air where the input had nothing.
    """
    grid = functional.affine_grid(affine, list(hu.shape), align_corners=False)
    density = functional.grid_sample(hu + 1024, grid, align_corners=False)  # air is 0: the padding
    gain, offset = intensity[:, :, None, None, None].unbind(1)
    return density * gain + offset - 1024
