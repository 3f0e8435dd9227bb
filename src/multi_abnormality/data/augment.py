"""Augmentation: what changes is drawn on the host, and applied on the device.

No left-right flips: the heart's side and the aortic arch carry meaning.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

ROTATION = 5.0  # degrees, the largest, about the body's axis
SCALE = 0.05  # share, the largest
SHIFT = 0.05  # share of half the slice, the largest
OFFSET = 10.0  # HU, the largest
GAIN = 0.03  # share, the largest

# Advanced only, each in half of the volumes.
NOISE = 25.0  # HU, the largest standard deviation
BLUR = 0.25  # the largest share that a voxel takes from each neighbour, along a slice's two axes
CUTOUT = 0.4  # share of each axis, the largest, that is cut out and filled with air

AIR = -1024.0  # HU


@dataclass(frozen=True)
class Draw:
    """One volume's draw."""

    slices: np.ndarray  # (S,) indices of the slices used, rising
    affine: np.ndarray  # (2, 3) float32, from output to input coordinates, as affine_grid takes it
    intensity: np.ndarray  # (2,) float32: gain, and offset in HU
    texture: np.ndarray  # (2,) float32: noise in HU, and blur as a share
    cutout: np.ndarray  # (3, 2) float32: where it begins and ends along each axis, in [0, 1]
    noise_seed: np.int64


def draw(rng: np.random.Generator, depth: int, slices: int, level: str = "basic") -> Draw:
    """Draw for a volume of `depth` slices, of which `slices` are used, one of each equal part.

    Args:
        rng: of this volume and epoch alone.
        depth: slices of the volume.
        slices: how many are used.
        level: as train.augmentation; without any the slice in the middle of each part is used.
    """
    affine, intensity = np.eye(2, 3), np.array([1.0, 0.0])
    chosen = (2 * np.arange(slices) + 1) * depth // (2 * slices) if slices < depth else None
    if level != "none":
        angle = math.radians(rng.uniform(-ROTATION, ROTATION))
        scale = 1 + rng.uniform(-SCALE, SCALE)
        shift = rng.uniform(-SHIFT, SHIFT, size=2)
        cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
        affine = np.array([[cosine, -sine, shift[0]], [sine, cosine, shift[1]]])
        intensity = np.array([1 + rng.uniform(-GAIN, GAIN), rng.uniform(-OFFSET, OFFSET)])
        chosen = draw_slices(rng, depth, slices)
    texture, cutout = np.zeros(2), np.zeros((3, 2))
    if level == "advanced":
        texture = rng.uniform(0, (NOISE, BLUR)) * (rng.random(2) < 0.5)
        length = rng.uniform(0, CUTOUT, size=3) * (rng.random() < 0.5)
        start = rng.uniform(0, 1 - length)
        cutout = np.stack([start, start + length], axis=1)
    return Draw(
        slices=np.arange(depth) if chosen is None else chosen,
        affine=affine.astype(np.float32),
        intensity=intensity.astype(np.float32),
        texture=texture.astype(np.float32),
        cutout=cutout.astype(np.float32),
        noise_seed=rng.integers(2**62),
    )


def draw_slices(rng: np.random.Generator, depth: int, slices: int) -> np.ndarray:
    """(S,) rising indices, one drawn from each of `slices` equal parts of the volume."""
    if slices >= depth:
        return np.arange(depth)
    edges = np.arange(slices + 1) * depth / slices
    places = edges[:-1] + rng.random(slices) * (edges[1:] - edges[:-1])
    return np.minimum(places.astype(np.int64), depth - 1)


def with_neighbours(slices: np.ndarray, depth: int, adjacent: int) -> np.ndarray:
    """(S * adjacent,) indices: each of (S,) amid its neighbours; at the ends, the last repeats."""
    beside = np.arange(adjacent) - adjacent // 2
    return (slices[:, None] + beside).clip(0, depth - 1).ravel()


def apply(hu: Tensor, affine: Tensor, intensity: Tensor) -> Tensor:
    """Move, turn, scale and re-grade each volume.

    Args:
        hu: (N, S, Y, X) float32, in HU.
        affine: (N, 2, 3), see Draw.
        intensity: (N, 2), see Draw.

    Returns:
        (N, S, Y, X), with air where the input had nothing.
    """
    rows, columns = hu.shape[2:]  # affine_grid measures each axis by its own length
    aspect = torch.tensor([[1, rows / columns, 1], [columns / rows, 1, 1]], device=affine.device)
    affine = affine * aspect
    grid = functional.affine_grid(affine, list(hu.shape), align_corners=False)
    density = functional.grid_sample(hu - AIR, grid, align_corners=False)  # air is 0: the padding
    gain, offset = intensity[:, :, None, None, None].unbind(1)
    return density.mul_(gain).add_(offset).add_(AIR)


def apply_advanced(hu: Tensor, texture: Tensor, cutout: Tensor, noise_seed: Tensor) -> Tensor:
    """Blur each volume, add noise to it, and cut a box out of it.

    Args:
        hu: (N, S, Y, X) float32, in HU.
        texture: (N, 2), see Draw.
        cutout: (N, 3, 2), see Draw.
        noise_seed: (N,) int64: the noise is drawn where the volume is, from its own seed.
    """
    noise, blur = texture[:, :, None, None, None].unbind(1)
    for axis in (2, 3):
        hu = _blur(hu, blur, axis)
    grain = [_noise_like(one, int(seed)) for one, seed in zip(hu, noise_seed, strict=True)]
    hu = hu + noise * torch.stack(grain)
    return hu.masked_fill(inside(cutout, hu.shape[1:]), AIR)


def inside(box: Tensor, shape: Sequence[int]) -> Tensor:
    """(N, S, Y, X) bool: which voxels' centres lie in boxes (N, 3, 2) in shares of each axis."""
    within = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=box.device)
    for axis, count in enumerate(shape):
        centres = (torch.arange(count, device=box.device) + 0.5) / count
        start, end = box[:, axis, :, None].unbind(1)
        along = (centres >= start) & (centres < end)
        within = within & along.view(-1, *(count if i == axis else 1 for i in range(3)))
    return within


def _blur(hu: Tensor, share: Tensor, axis: int) -> Tensor:
    """Each voxel gives `share` to each of its two neighbours; the outermost keep theirs."""
    first, last = hu.narrow(axis, 0, 1), hu.narrow(axis, hu.shape[axis] - 1, 1)
    below = torch.cat([first, hu.narrow(axis, 0, hu.shape[axis] - 1)], dim=axis)
    above = torch.cat([hu.narrow(axis, 1, hu.shape[axis] - 1), last], dim=axis)
    return hu + share * (below + above - 2 * hu)


def _noise_like(volume: Tensor, seed: int) -> Tensor:
    source = torch.Generator(volume.device).manual_seed(seed)
    return torch.randn(volume.shape, generator=source, device=volume.device)
