import numpy as np
import pytest
import torch

from multi_abnormality.data.transforms.augment import (
    AIR,
    apply,
    apply_advanced,
    box_mask,
    sample_augmentation,
)
from multi_abnormality.data.transforms.mixup import MixParams, augment_batch, mix, sample_mix
from multi_abnormality.utils.rng import generator

SHAPE = (8, 24, 32)


def batch(level: str, volumes: int = 40):
    """HU of smooth volumes, and their augmentation parameters as tensors."""
    draws = [sample_augmentation(generator(0, "augment", n), 8, 8, level) for n in range(volumes)]
    fields = {
        name: torch.from_numpy(np.stack([getattr(one, name) for one in draws]))
        for name in ("affine", "intensity", "texture", "cutout", "noise_seed")
    }
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    hu = -700 + 600 * torch.exp(-((y - 12) ** 2 + (x - 16) ** 2) / 60)
    return hu.expand(volumes, *SHAPE).contiguous(), fields


def test_without_augmentation_nothing_changes_and_slices_are_evenly_spread():
    hu, fields = batch("none", 3)
    moved = apply(hu, fields["affine"], fields["intensity"])
    torch.testing.assert_close(moved, hu, atol=1e-2, rtol=0)
    assert sample_augmentation(generator(0), 30, 5, "none").slices.tolist() == [3, 9, 15, 21, 27]
    assert sample_augmentation(generator(0), 4, 9, "none").slices.tolist() == [0, 1, 2, 3]


def test_each_level_adds_to_the_one_below_it():
    for volume in range(5):
        basic, advanced = (
            sample_augmentation(generator(volume), 30, 5, level) for level in ("basic", "advanced")
        )
        assert (basic.slices == advanced.slices).all()
        assert (basic.affine == advanced.affine).all()
        assert not basic.texture.any()
        assert not basic.cutout.any()


def test_advanced_blurs_adds_noise_and_cuts_out_as_sampled():
    hu, fields = batch("advanced")
    changed = apply_advanced(hu, fields["texture"], fields["cutout"], fields["noise_seed"])
    cut = box_mask(fields["cutout"], SHAPE)
    assert (changed[cut] == AIR).all()
    assert 0.2 < cut.flatten(1).any(dim=1).float().mean() < 0.8
    noisy = fields["texture"][:, 0] > 0
    assert 0.2 < noisy.float().mean() < 0.8
    plain = apply_advanced(
        hu, fields["texture"] * torch.tensor([0, 1]), fields["cutout"], fields["noise_seed"]
    )
    for one, other, sigma, hole in zip(changed, plain, fields["texture"][:, 0], cut, strict=True):
        assert (one - other)[~hole].std().item() == pytest.approx(sigma.item(), rel=0.1, abs=1e-3)


def test_blur_keeps_the_mean_and_lowers_peaks():
    hu, fields = batch("advanced", 1)
    weight, none = torch.tensor([[0.0, 0.25]]), torch.zeros(1, 3, 2)
    blurred = apply_advanced(hu, weight, none, fields["noise_seed"])
    assert blurred.mean().item() == pytest.approx(hu.mean().item(), abs=1e-2)
    assert blurred.max() < hu.max()


def test_noise_does_not_depend_on_the_rest_of_the_batch():
    hu, fields = batch("advanced", 6)
    whole = apply_advanced(hu, fields["texture"], fields["cutout"], fields["noise_seed"])
    part = slice(3, 5)
    alone = [fields[name][part] for name in ("texture", "cutout", "noise_seed")]
    torch.testing.assert_close(apply_advanced(hu[part], *alone), whole[part], rtol=0, atol=0)


def test_mixup_mixes_volumes_and_labels_alike():
    hu = torch.stack([torch.full(SHAPE, 100.0), torch.full(SHAPE, 0.0)])
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    drawn = MixParams(np.array([1, 0]), 0.25, np.zeros((3, 2), np.float32))
    mixed, mixed_labels = mix(hu, labels, drawn)
    torch.testing.assert_close(mixed[:, 0, 0, 0], torch.tensor([75.0, 25.0]))
    torch.testing.assert_close(mixed_labels, torch.tensor([[0.75, 0.0], [0.25, 0.0]]))


def test_cutmix_labels_are_weighted_by_the_fraction_of_voxels():
    hu = torch.stack([torch.full(SHAPE, 1.0), torch.full(SHAPE, 0.0)])
    labels = torch.tensor([[1.0], [0.0]])
    for seed in range(20):
        drawn = sample_mix(generator(seed), 2, mixup=0, cutmix=1)
        drawn = MixParams(np.array([1, 0]), drawn.lam, drawn.box)
        mixed, mixed_labels = mix(hu, labels, drawn)
        assert mixed_labels[0].item() == pytest.approx(mixed[0].mean().item(), abs=1e-6)
        assert set(mixed.unique().tolist()) <= {0.0, 1.0}


def test_how_often_batches_are_mixed():
    drawn = [sample_mix(generator(seed), 4, mixup=0.3, cutmix=0.2) for seed in range(400)]
    ups = sum(bool(one and one.lam) for one in drawn)
    cuts = sum(bool(one and one.box.any()) for one in drawn)
    assert 90 < ups < 150
    assert 55 < cuts < 105
    assert sample_mix(generator(0), 4, 0, 0) is None


def test_mixed_precision_leaves_augmentation_alone(small_params):
    hu, fields = batch("advanced", 4)
    fields["labels"] = torch.eye(4)
    changes = {"augmentation": "advanced", "mixup_prob": 0.5, "cutmix_prob": 0.4}
    settings = small_params.train.model_copy(update=changes)
    expected, _ = augment_batch(hu, fields, settings, generator(0))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = augment_batch(hu, fields, settings, generator(0))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
