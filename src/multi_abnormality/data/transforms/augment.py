"""Augmentation: parameters are sampled on the host and applied on the device.

An augmentation is a class registered in AUGMENTATIONS. No left-right flips: the side of the heart
and of the aortic arch is meaningful.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from multi_abnormality.data.transforms.augmentation_base import AIR, Augmentation

SHARED_STREAM = "augment"  # also of the sampled slices


class AffineAndIntensity(Augmentation):
    """Rotates about the body's axis, scales and shifts; changes gain and offset of the HU."""

    stream = SHARED_STREAM
    ROTATION = 5.0  # degrees; this and the following are the largest values
    SCALE = 0.05  # relative
    SHIFT = 0.05  # fraction of half the slice
    OFFSET = 10.0  # HU
    GAIN = 0.03  # relative

    def sample(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Sample `affine` (2, 3), as in affine_grid, and `intensity` (2,): gain and offset."""
        angle = math.radians(rng.uniform(-self.ROTATION, self.ROTATION))
        scale = 1 + rng.uniform(-self.SCALE, self.SCALE)
        shift = rng.uniform(-self.SHIFT, self.SHIFT, size=2)
        cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
        affine = np.array([[cosine, -sine, shift[0]], [sine, cosine, shift[1]]])
        gain = 1 + rng.uniform(-self.GAIN, self.GAIN)
        intensity = np.array([gain, rng.uniform(-self.OFFSET, self.OFFSET)])
        return {"affine": affine.astype(np.float32), "intensity": intensity.astype(np.float32)}

    def apply(self, hu: Tensor, params: Mapping[str, Any]) -> Tensor:
        rows, columns = hu.shape[2:]  # affine_grid measures each axis by its own length
        aspect = torch.tensor([[1, rows / columns, 1], [columns / rows, 1, 1]])
        affine = params["affine"] * aspect.to(hu.device, non_blocking=True)
        grid = functional.affine_grid(affine, [*hu.shape], align_corners=False)
        density = functional.grid_sample(hu - AIR, grid, align_corners=False)  # 0: the padding
        gain, offset = params["intensity"][:, :, None, None, None].unbind(1)
        return density.mul_(gain).add_(offset).add_(AIR)


class BlurAndNoise(Augmentation):
    """Blurs in the plane and adds noise, each for half of the volumes."""

    stream = SHARED_STREAM
    NOISE = 25.0  # HU, largest standard deviation
    BLUR = 0.25  # largest weight of each neighbour

    def sample(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Sample `texture` (2,): noise in HU, and blur weight."""
        texture = rng.uniform(0, (self.NOISE, self.BLUR)) * (rng.random(2) < 0.5)
        return {"texture": texture.astype(np.float32)}

    def apply(self, hu: Tensor, params: Mapping[str, Any]) -> Tensor:
        noise, blur = params["texture"][:, :, None, None, None].unbind(1)
        for axis in (2, 3):
            hu = _blur(hu, blur, axis)
        grain = [_noise_like(one, int(seed)) for one, seed in zip(hu, params["seed"], strict=True)]
        noisy: Tensor = hu + noise * torch.stack(grain)
        return noisy


class Cutout(Augmentation):
    """Fills a box with air, in half of the volumes."""

    stream = SHARED_STREAM
    LENGTH = 0.4  # largest fraction of each axis

    def sample(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Sample `cutout` (3, 2): start and end along each axis, in [0, 1]."""
        length = rng.uniform(0, self.LENGTH, size=3) * (rng.random() < 0.5)
        start = rng.uniform(0, 1 - length)
        return {"cutout": np.stack([start, start + length], axis=1).astype(np.float32)}

    def apply(self, hu: Tensor, params: Mapping[str, Any]) -> Tensor:
        return hu.masked_fill(box_mask(params["cutout"], hu.shape[1:]), AIR)


# Augmentations by the level of train.augmentation that adds them to those of the levels before it,
# in the order of sampling and application.
AUGMENTATIONS: dict[str, list[Augmentation]] = {
    "none": [],
    "basic": [AffineAndIntensity()],
    "advanced": [BlurAndNoise(), Cutout()],
}


def levels(level: str) -> list[str]:
    """Return a level and those before it, which it includes."""
    names = list(AUGMENTATIONS)
    return names[: names.index(level) + 1]


def augment(hu: Tensor, params: Mapping[str, Any], level: str) -> Tensor:
    """Apply the augmentations of a level to volumes (N, S, Y, X) in HU."""
    for name in levels(level):
        for augmentation in AUGMENTATIONS[name]:
            hu = augmentation.apply(hu, params)
    return hu


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
