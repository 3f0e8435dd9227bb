"""Augmentation: parameters are sampled on the host and applied on the device.

No left-right flips: the side of the heart and of the aortic arch is meaningful.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# Largest values.
ROTATION = 5.0  # degrees, about the body's axis
SCALE = 0.05  # relative
SHIFT = 0.05  # fraction of half the slice
OFFSET = 10.0  # HU
GAIN = 0.03  # relative

# Largest values for `advanced` only, each applied to half of the volumes.
NOISE = 25.0  # HU, standard deviation
BLUR = 0.25  # weight of each in-plane neighbour
CUTOUT = 0.4  # fraction of each axis that is filled with air

AIR = -1024.0  # HU


@dataclass(frozen=True)
class AugmentParams:
    """Augmentation parameters of one volume."""

    slices: np.ndarray  # (S,) indices of the slices used, ascending
    affine: np.ndarray  # (2, 3) float32, from output to input coordinates, as in affine_grid
    intensity: np.ndarray  # (2,) float32: gain, and offset in HU
    texture: np.ndarray  # (2,) float32: noise in HU, and blur weight
    cutout: np.ndarray  # (3, 2) float32: start and end along each axis, in [0, 1]
    noise_seed: np.int64


def sample_augmentation(
    rng: np.random.Generator, depth: int, slices: int, level: str = "basic"
) -> AugmentParams:
    """Sample the augmentation of a volume.

    Args:
        rng: generator for this volume and epoch.
        depth: number of slices in the volume.
        slices: number of slices to use, one from each of as many equal parts.
        level: `train.augmentation`; with "none", the middle slice of each part is used.
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
        chosen = sample_slices(rng, depth, slices)
    texture, cutout = np.zeros(2), np.zeros((3, 2))
    if level == "advanced":
        texture = rng.uniform(0, (NOISE, BLUR)) * (rng.random(2) < 0.5)
        length = rng.uniform(0, CUTOUT, size=3) * (rng.random() < 0.5)
        start = rng.uniform(0, 1 - length)
        cutout = np.stack([start, start + length], axis=1)
    return AugmentParams(
        slices=np.arange(depth) if chosen is None else chosen,
        affine=affine.astype(np.float32),
        intensity=intensity.astype(np.float32),
        texture=texture.astype(np.float32),
        cutout=cutout.astype(np.float32),
        noise_seed=rng.integers(2**62),
    )


def sample_slices(rng: np.random.Generator, depth: int, slices: int) -> np.ndarray:
    """Return (S,) ascending indices, one sampled from each of `slices` equal parts."""
    if slices >= depth:
        return np.arange(depth)
    edges = np.arange(slices + 1) * depth / slices
    positions = edges[:-1] + rng.random(slices) * (edges[1:] - edges[:-1])
    return np.minimum(positions.astype(np.int64), depth - 1)


def adjacent_slice_indices(slices: np.ndarray, depth: int, adjacent: int) -> np.ndarray:
    """Return (S * adjacent,) indices of each slice with its neighbours, clamped at the ends."""
    offsets = np.arange(adjacent) - adjacent // 2
    return (slices[:, None] + offsets).clip(0, depth - 1).ravel()


def apply(hu: Tensor, affine: Tensor, intensity: Tensor) -> Tensor:
    """Apply the affine transform and the intensity change to each volume.

    Args:
        hu: (N, S, Y, X) float32, in HU.
        affine: (N, 2, 3), see AugmentParams.
        intensity: (N, 2), see AugmentParams.

    Returns:
        (N, S, Y, X), filled with air outside of the input.
    """
    rows, columns = hu.shape[2:]  # affine_grid measures each axis by its own length
    aspect = torch.tensor([[1, rows / columns, 1], [columns / rows, 1, 1]])
    affine = affine * aspect.to(affine.device, non_blocking=True)
    grid = functional.affine_grid(affine, list(hu.shape), align_corners=False)
    density = functional.grid_sample(hu - AIR, grid, align_corners=False)  # air is 0: the padding
    gain, offset = intensity[:, :, None, None, None].unbind(1)
    return density.mul_(gain).add_(offset).add_(AIR)


def apply_advanced(
    hu: Tensor, texture: Tensor, cutout: Tensor, noise_seed: Sequence[int]
) -> Tensor:
    """Blur each volume, add noise, and cut out a box.

    Args:
        hu: (N, S, Y, X) float32, in HU.
        texture: (N, 2), see AugmentParams.
        cutout: (N, 3, 2), see AugmentParams.
        noise_seed: (N,) seeds of the noise, which is generated on the volumes' device.
    """
    noise, blur = texture[:, :, None, None, None].unbind(1)
    for axis in (2, 3):
        hu = _blur(hu, blur, axis)
    grain = [_noise_like(one, int(seed)) for one, seed in zip(hu, noise_seed, strict=True)]
    hu = hu + noise * torch.stack(grain)
    return hu.masked_fill(box_mask(cutout, hu.shape[1:]), AIR)


def box_mask(box: Tensor, shape: Sequence[int]) -> Tensor:
    """Return (N, S, Y, X) bool: voxels whose centre lies in the box (N, 3, 2), in [0, 1]."""
    within = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=box.device)
    for axis, count in enumerate(shape):
        centres = (torch.arange(count, device=box.device) + 0.5) / count
        start, end = box[:, axis, :, None].unbind(1)
        along = (centres >= start) & (centres < end)
        within = within & along.view(-1, *(count if i == axis else 1 for i in range(3)))
    return within


def _blur(hu: Tensor, weight: Tensor, axis: int) -> Tensor:
    """Blur along one axis with the kernel (weight, 1 - 2 * weight, weight), edges replicated."""
    first, last = hu.narrow(axis, 0, 1), hu.narrow(axis, hu.shape[axis] - 1, 1)
    below = torch.cat([first, hu.narrow(axis, 0, hu.shape[axis] - 1)], dim=axis)
    above = torch.cat([hu.narrow(axis, 1, hu.shape[axis] - 1), last], dim=axis)
    return hu + weight * (below + above - 2 * hu)


def _noise_like(volume: Tensor, seed: int) -> Tensor:
    source = torch.Generator(volume.device).manual_seed(seed)
    return torch.randn(volume.shape, generator=source, device=volume.device)
