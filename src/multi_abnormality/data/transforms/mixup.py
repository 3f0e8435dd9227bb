"""Augmentation of a training batch, with MixUp and CutMix."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from multi_abnormality.config.schema import Train
from multi_abnormality.data.transforms.augment import augment, box_mask
from multi_abnormality.data.transforms.batch import Batch

MIXUP_ALPHA = 0.4  # parameter of the Beta distribution of lambda


@dataclass(frozen=True)
class MixParams:
    """Mixing parameters of one batch.

    Attributes:
        partner: (N,) index of the volume that each one is mixed with.
        lam: weight of the partner in MixUp (Zhang et al. 2018, arXiv:1710.09412); 0 for CutMix.
        box: (3, 2) float32, box taken from the partner in CutMix (Yun et al. 2019,
            arXiv:1905.04899); start and end along each axis, in [0, 1].
    """

    partner: np.ndarray
    lam: float
    box: np.ndarray


def augment_batch(
    hu: Tensor, batch: Batch, settings: Train, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Augment each volume with the parameters in the batch, then mix the batch.

    Args:
        hu: (N, S, Y, X) float32, volumes of the batch.
        batch: labels and augmentation parameters.
        settings: level of augmentation, mixup_prob and cutmix_prob.
        rng: generator for this batch and epoch.

    Returns:
        HU (N, S, Y, X) and labels (N, F) in [0, 1], NaN where one is missing.
    """
    labels = batch["labels"]
    # Coordinates in half precision would move voxels by up to half of one.
    with torch.autocast(hu.device.type, enabled=False):
        hu = augment(hu, batch["augmentation"], settings.augmentation)
        params = sample_mix(rng, len(hu), settings.mixup_prob, settings.cutmix_prob)
        return mix(hu, labels, params) if params else (hu, labels)


def sample_mix(
    rng: np.random.Generator, size: int, mixup: float, cutmix: float
) -> MixParams | None:
    """Sample the mixing parameters of a batch; None if it is not mixed.

    Args:
        rng: generator for this batch and epoch.
        size: number of volumes.
        mixup: probability of MixUp.
        cutmix: probability of CutMix; the two sum to at most 1.
    """
    choice = rng.random()
    if choice >= mixup + cutmix:
        return None
    partner = rng.permutation(size)
    if choice < mixup:
        return MixParams(partner, rng.beta(MIXUP_ALPHA, MIXUP_ALPHA), np.zeros((3, 2), np.float32))
    length = rng.uniform(0, 1) ** (1 / 3) * np.ones(3)
    start = rng.uniform(0, 1 - length)
    return MixParams(partner, 0.0, np.stack([start, start + length], axis=1).astype(np.float32))


def mix(hu: Tensor, labels: Tensor, params: MixParams) -> tuple[Tensor, Tensor]:
    """Mix volumes (N, S, Y, X), and labels (N, F) by the fraction of mixed voxels.

    A mixed label is missing if that of either volume is, unless nothing of this volume is used.
    """
    partner = torch.from_numpy(params.partner).to(hu.device, non_blocking=True)
    box = torch.from_numpy(params.box)[None].to(hu.device, non_blocking=True)
    cut = box_mask(box, hu.shape[1:])
    mixed = hu + params.lam * (hu[partner] - hu)
    mixed = torch.where(cut, hu[partner], mixed)
    fraction = params.lam + (1 - params.lam) * cut.float().mean()
    others = labels[partner]
    mixed_labels = labels + fraction * (others - labels)
    mixed_labels = torch.where(fraction == 0, labels, mixed_labels)
    return mixed, torch.where(fraction == 1, others, mixed_labels)
