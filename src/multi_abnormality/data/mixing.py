"""A batch as it is learned from: augmented, and perhaps mixed by MixUp or CutMix."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from multi_abnormality.data.augment import apply, apply_advanced, inside
from multi_abnormality.data.batches import Batch
from multi_abnormality.params import Train

MIXUP_ALPHA = 0.4  # of the Beta distribution of shares


@dataclass(frozen=True)
class Mix:
    """One batch's draw: which volume is mixed with which, and how."""

    partner: np.ndarray  # (N,) indices
    share: float  # of the partner, everywhere: MixUp (Zhang et al. 2018, arXiv:1710.09412)
    box: np.ndarray  # (3, 2) float32, of the partner alone: CutMix (Yun et al. 2019, 1905.04899)


def augmented(
    hu: Tensor, batch: Batch, settings: Train, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Augment each volume (N, S, Y, X) as its draw in the batch says, then mix the batch.

    Args:
        hu: the batch's volumes, float32.
        batch: labels and draws.
        settings: augmentation, mixup and cutmix count here.
        rng: of this batch and epoch alone.

    Returns:
        HU (N, S, Y, X) and labels (N, F) from 0 to 1.
    """
    labels = batch["labels"]
    # Coordinates in half precision would move voxels by up to half of one.
    with torch.autocast(hu.device.type, enabled=False):
        if settings.augmentation != "none":
            hu = apply(hu, batch["affine"], batch["intensity"])
        if settings.augmentation == "advanced":
            hu = apply_advanced(hu, batch["texture"], batch["cutout"], batch["noise_seed"])
        drawn = draw_mix(rng, len(hu), settings.mixup, settings.cutmix)
        return mix(hu, labels, drawn) if drawn else (hu, labels)


def draw_mix(rng: np.random.Generator, size: int, mixup: float, cutmix: float) -> Mix | None:
    """Draw for a batch of `size` volumes; None: nothing is mixed.

    Args:
        rng: of this batch and epoch alone.
        size: volumes.
        mixup: probability of MixUp.
        cutmix: probability of CutMix; both together at most 1.
    """
    choice = rng.random()
    if choice >= mixup + cutmix:
        return None
    partner = rng.permutation(size)
    if choice < mixup:
        return Mix(partner, rng.beta(MIXUP_ALPHA, MIXUP_ALPHA), np.zeros((3, 2), np.float32))
    length = rng.uniform(0, 1) ** (1 / 3) * np.ones(3)
    start = rng.uniform(0, 1 - length)
    return Mix(partner, 0.0, np.stack([start, start + length], axis=1).astype(np.float32))


def mix(hu: Tensor, labels: Tensor, drawn: Mix) -> tuple[Tensor, Tensor]:
    """Mix volumes (N, S, Y, X) and labels (N, F), the labels by the share of voxels."""
    partner = torch.from_numpy(drawn.partner).to(hu.device)
    cut = inside(torch.from_numpy(drawn.box)[None].to(hu.device), hu.shape[1:])
    mixed = hu + drawn.share * (hu[partner] - hu)
    mixed = torch.where(cut, hu[partner], mixed)
    share = drawn.share + (1 - drawn.share) * cut.float().mean()
    return mixed, labels + share * (labels[partner] - labels)
