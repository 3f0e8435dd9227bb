import numpy as np
import pytest
import torch

from multi_abnormality.config.schema import Train
from multi_abnormality.data.loading.collate import collate
from multi_abnormality.data.loading.train_dataset import TrainDataset
from multi_abnormality.data.transforms.augment import (
    AUGMENTATIONS,
    BlurAndNoise,
    augment,
    box_mask,
    levels,
)
from multi_abnormality.data.transforms.augmentation_base import AIR, Augmentation
from multi_abnormality.data.transforms.batch import move_batch
from multi_abnormality.data.transforms.mixup import MixParams, augment_batch, mix, sample_mix
from multi_abnormality.utils.rng import generator

SHAPE = (8, 24, 32)


def batch(level: str, volumes: int = 40) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """HU of smooth volumes, and their augmentation parameters as tensors."""
    draws = []
    for volume in range(volumes):
        rng = generator(0, "augment", volume)
        draws.append({"seed": np.asarray(volume)})
        for name in levels(level):
            for one in AUGMENTATIONS[name]:
                draws[-1] |= one.sample(rng)
    params = {name: torch.from_numpy(np.stack([one[name] for one in draws])) for name in draws[0]}
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    hu = -700 + 600 * torch.exp(-((y - 12) ** 2 + (x - 16) ** 2) / 60)
    return hu.expand(volumes, *SHAPE).contiguous(), params


def advanced(hu: torch.Tensor, params: dict[str, torch.Tensor]) -> torch.Tensor:
    """What level `advanced` adds to `basic`."""
    for one in AUGMENTATIONS["advanced"]:
        hu = one.apply(hu, params)
    return hu


def test_without_augmentation_nothing_changes():
    hu, params = batch("none", 3)
    assert augment(hu, params, "none") is hu


def test_each_level_adds_to_the_one_below_it():
    assert levels("advanced") == ["none", "basic", "advanced"]
    basic, more = batch("basic", 5)[1], batch("advanced", 5)[1]
    assert basic.keys() == {"seed", "affine", "intensity"}
    assert more.keys() - basic.keys() == {"texture", "cutout"}
    assert all((more[name] == basic[name]).all() for name in basic)


def test_advanced_blurs_adds_noise_and_cuts_out_as_sampled():
    hu, params = batch("advanced")
    changed = advanced(hu, params)
    cut = box_mask(params["cutout"], SHAPE)
    assert (changed[cut] == AIR).all()
    assert 0.2 < cut.flatten(1).any(dim=1).float().mean() < 0.8
    noisy = params["texture"][:, 0] > 0
    assert 0.2 < noisy.float().mean() < 0.8
    plain = advanced(hu, params | {"texture": params["texture"] * torch.tensor([0, 1])})
    for one, other, sigma, hole in zip(changed, plain, params["texture"][:, 0], cut, strict=True):
        assert (one - other)[~hole].std().item() == pytest.approx(sigma.item(), rel=0.1, abs=1e-3)


def test_blur_keeps_the_mean_and_lowers_peaks():
    hu, params = batch("advanced", 1)
    blurred = BlurAndNoise().apply(hu, params | {"texture": torch.tensor([[0.0, 0.25]])})
    assert blurred.mean().item() == pytest.approx(hu.mean().item(), abs=1e-2)
    assert blurred.max() < hu.max()


def test_noise_does_not_depend_on_the_rest_of_the_batch():
    hu, params = batch("advanced", 6)
    part = slice(3, 5)
    alone = {name: values[part] for name, values in params.items()}
    torch.testing.assert_close(
        advanced(hu[part], alone), advanced(hu, params)[part], rtol=0, atol=0
    )


class Brightness(Augmentation):
    """Adds a constant to each volume."""

    stream = "brightness"

    def sample(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"brightness": np.float32(rng.uniform(1, 2))[None]}

    def apply(self, hu: torch.Tensor, params: dict[str, torch.Tensor]) -> torch.Tensor:
        return hu + params["brightness"][:, :, None, None]


def samples_of(small_set, train: Train) -> dict:
    """A batch of four volumes."""
    names = small_set.volumes("train")["name"].tolist()
    volumes = TrainDataset(small_set, names, train, seed=0)
    return move_batch(collate([volumes[0, index] for index in range(4)]), torch.device("cpu"))


def test_a_registered_augmentation_is_sampled_and_applied(monkeypatch, small_set, small_params):
    monkeypatch.setitem(AUGMENTATIONS, "none", [Brightness()])
    train = small_params.train.model_copy(update={"augmentation": "none"})
    samples = samples_of(small_set, train)
    hu = torch.zeros(4, *SHAPE)
    changed, _ = augment_batch(hu, samples, train, generator(0))
    values = samples["augmentation"]["brightness"]
    assert len(set(values.flatten().tolist())) == 4
    torch.testing.assert_close(changed, hu + values[:, :, None, None])


def test_an_augmentation_with_its_own_stream_does_not_change_the_others(
    monkeypatch, small_set, small_params
):
    train = small_params.train.model_copy(update={"augmentation": "advanced"})
    before = samples_of(small_set, train)
    monkeypatch.setitem(AUGMENTATIONS, "basic", [Brightness(), *AUGMENTATIONS["basic"]])
    after = samples_of(small_set, train)
    del after["augmentation"]["brightness"]
    assert after["augmentation"].keys() == before["augmentation"].keys()
    assert after["augmentation"].pop("seed") == before["augmentation"].pop("seed")
    for name, values in before["augmentation"].items():
        assert torch.equal(after["augmentation"][name], values)
    assert torch.equal(after["volume"], before["volume"])


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
    hu, params = batch("advanced", 4)
    samples = {"labels": torch.eye(4), "augmentation": params}
    changes = {"augmentation": "advanced", "mixup_prob": 0.5, "cutmix_prob": 0.4}
    settings = small_params.train.model_copy(update=changes)
    expected, _ = augment_batch(hu, samples, settings, generator(0))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = augment_batch(hu, samples, settings, generator(0))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_mixed_label_is_missing_where_that_of_either_part_is():
    hu = torch.zeros(2, 4, 4, 4)
    labels = torch.tensor([[1.0, torch.nan, 0.0], [0.0, 1.0, torch.nan]])
    whole = np.array([[0, 1]] * 3, np.float32)
    for lam, box, expected in (
        (0.25, np.zeros_like(whole), [[0.75, torch.nan, torch.nan], [0.25, torch.nan, torch.nan]]),
        (0.0, np.zeros_like(whole), labels.tolist()),  # nothing is mixed
        (0.0, whole, labels.flip(0).tolist()),  # the other scan alone
    ):
        _, mixed = mix(hu, labels, MixParams(np.array([1, 0]), lam, box))
        torch.testing.assert_close(mixed, torch.tensor(expected), equal_nan=True)
