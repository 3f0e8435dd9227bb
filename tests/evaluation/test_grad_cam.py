"""Grad-CAM and attention."""

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from multi_abnormality.evaluation.grad_cam import explain
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.models.pooling import MeanPooling
from untrained_classifier import untrained_classifier

DEPTH = 6


def make(backbone: str, **options: object) -> VolumeClassifier:
    options = {"size": (48, 64)} | options
    return untrained_classifier(backbone, 2, [(0, 2000)], **options)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(100, 140, (count, DEPTH, 48, 64), dtype=np.uint8)


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("test_efficientnet", {"multiscale": True, "attn_layer": "cbam"}),
        ("test_vit", {"pooling": "transformer", "adjacent_slices": 3}),
        ("test_vit", {"multiscale": True, "encoder_chunk_size": 4}),
        ("test_vit", {"multiscale": [0, 1]}),
        ("resnet10t", {"multiscale": [0, 1, 2, 3], "attn_layer": "se"}),
        ("swin_tiny_patch4_window7_224", {"size": (224, 224), "pooling": "max"}),
        ("resnet18", {"pooling": "mean"}),
    ],
)
def test_every_kind_of_backbone_can_be_explained(backbone: str, options: dict):
    options = dict(options)
    model = make(backbone, adjacent=options.pop("adjacent_slices", 1), **options)
    volume = noise(1)[0]
    if "size" in options:
        volume = np.zeros((DEPTH, *options["size"]), np.uint8)
    for seen in explain(model, volume, [1, 0]):
        assert seen.attention.shape == (DEPTH,)
        assert seen.attention.sum() == pytest.approx(1)
        assert 0 <= seen.slice < DEPTH
        assert seen.heat.shape == volume.shape[1:]
        assert seen.heat.min() >= 0
        assert seen.heat.max() in (0, 1)


def squares(rng: np.random.Generator) -> tuple[np.ndarray, torch.Tensor, list[tuple]]:
    """Eight volumes, every second with a bright square anywhere; labels; and where it is."""
    volumes = rng.integers(100, 140, (8, DEPTH, 48, 64), dtype=np.uint8)
    labels, places = torch.zeros(8, 2), []
    for row in range(1, 8, 2):
        z, y, x = rng.integers(DEPTH), rng.integers(32), rng.integers(48)
        places.append((row, z, slice(y, y + 16), slice(x, x + 16)))
        volumes[row, z, *places[-1][2:]] = 230
        labels[row, 1] = 1
    return volumes, labels, places


@pytest.mark.slow
@pytest.mark.parametrize("multiscale", [True, [0, 1, 2]])
def test_the_heat_map_covers_the_learned_object(multiscale: bool | list[int]):
    rng = np.random.default_rng(1)
    model = make("test_efficientnet", multiscale=multiscale).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        volumes, labels, _ = squares(rng)
        loss = binary_cross_entropy_with_logits(model(torch.from_numpy(volumes)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    volumes, _, places = squares(rng)
    density = []
    for row, z, *square in places:
        (seen,) = explain(model, volumes[row], [1])
        assert seen.slice == z
        density.append(seen.heat[*square].mean() / seen.heat.mean())
    assert np.mean(density) > 2


def test_padding_is_never_the_slice_shown():
    """Scan data on two of six slices; the attention is on the padding at both ends."""
    model = make("test_efficientnet", pooling="mean")
    volume = noise(1)[0]
    volume[[0, 1, 4, 5]] = 0

    def pool(features: torch.Tensor, height: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, weights = MeanPooling.forward(model.pooling, features, height)
        given = torch.tensor([0.5, 0.2, 0.05, 0.1, 0.1, 0.05])
        return logits, given.expand_as(weights) if weights.shape[-1] == DEPTH else weights

    model.pooling.forward = pool
    for seen in explain(model, volume, [0, 1]):
        assert seen.slice in (2, 3)
        assert seen.padding == pytest.approx(0.85)
    (whole,) = explain(model, noise(1)[0], [0])
    assert whole.padding == 0
