"""Features of chosen feature maps: `model.multiscale` as a list of indices."""

import pytest
import timm
import torch

from multi_abnormality.models.encoder import SliceEncoder
from multi_abnormality.models.factory import build_classifier
from multi_abnormality.training.finetuning import layers_of
from multi_abnormality.utils.errors import InputError

BACKBONE = "test_efficientnet"
SLICES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def number_of_parameters(encoder: SliceEncoder) -> int:
    return sum(parameter.numel() for parameter in encoder.parameters())


@pytest.mark.parametrize("backbone", [BACKBONE, "resnet10t", "convnext_atto", "test_vit"])
@pytest.mark.parametrize("indices", [(0, 2), (1,)])
def test_features_are_the_mean_and_maximum_of_timms_maps(backbone: str, indices: tuple[int, ...]):
    torch.manual_seed(0)
    encoder = SliceEncoder(backbone, 3, (64, 64), multiscale=indices).eval()
    torch.manual_seed(0)
    size = {"img_size": 64} if backbone == "test_vit" else {}
    plain = timm.create_model(backbone, num_classes=0, **size).eval()
    maps = plain.forward_intermediates(SLICES, indices=list(indices), intermediates_only=True)
    pooled = [part for map_ in maps for part in (map_.mean(dim=(2, 3)), map_.amax(dim=(2, 3)))]
    wanted = [torch.nn.functional.layer_norm(part, part.shape[-1:]) for part in pooled]
    found = encoder(SLICES)
    assert found.shape[1] == encoder.width
    torch.testing.assert_close(found, torch.cat(wanted, dim=1))


@pytest.mark.parametrize("backbone", [BACKBONE, "resnet10t", "convnext_atto", "test_vit"])
def test_layers_above_the_last_map_are_removed(backbone: str):
    """Every parameter that stays is trained: in several processes, unused ones cost time."""
    encoder = SliceEncoder(backbone, 3, (64, 64), multiscale=[0, 1])
    assert number_of_parameters(encoder) < number_of_parameters(SliceEncoder(backbone, 3, (64, 64)))
    (encoder(SLICES) * torch.randn(encoder.width)).sum().backward()
    unused = [name for name, part in encoder.named_parameters() if part.grad is None]
    assert unused in ([], ["backbone.norm.weight", "backbone.norm.bias"])
    assert sum(map(len, layers_of(encoder.backbone, backbone, coarse=True).values())) == len(
        list(encoder.backbone.parameters())
    )


def test_negative_indices_count_from_the_last_map():
    torch.manual_seed(0)
    first = SliceEncoder("resnet10t", 3, multiscale=[-5, -3]).eval()
    torch.manual_seed(0)
    second = SliceEncoder("resnet10t", 3, multiscale=[2, 0]).eval()
    assert first.stages == second.stages == [0, 2]
    assert torch.equal(first(SLICES), second(SLICES))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multiscale": [0, 5]}, r"model\.multiscale: \[0, 5\] is not possible with resnet10t .*"
         r"feature maps 0 to 4, of 1/2, 1/4, 1/8, 1/16, 1/32 of"),
        ({"multiscale": [1, -4]}, r"model\.multiscale: \[1, -4\] has a feature map twice"),
        ({"multiscale": [1], "global_pool": "max"}, r"model\.global_pool: 'max' has no effect"),
    ],
)  # fmt: skip
def test_impossible_feature_maps_are_refused(options: dict, message: str):
    with pytest.raises(InputError, match=message):
        SliceEncoder("resnet10t", 3, **options)


@pytest.mark.parametrize("kind", ["se", "cbam"])
def test_channel_attention_on_each_map(kind: str):
    encoder = SliceEncoder(BACKBONE, 3, (64, 64), multiscale=[0, 1, 2], attn_layer=kind)
    encoder(SLICES).sum().backward()
    assert len(encoder.attentions) == 3
    assert all(parameter.grad is not None for parameter in encoder.attentions.parameters())


def test_lora_adapts_the_layers_that_stay():
    metadata = {
        "findings": ["a", "b"],
        "preprocess": {"shape": (4, 32, 32), "spacing": (7.0, 3.0, 3.0),
                       "hu_to_uint8": ((-1024, 0), (240, 226), (1024, 255))},
        "model": {"backbone": "test_vit", "pretrained": False, "global_pool": None,
                  "multiscale": [0, 1], "attn_layer": "none", "encoder_chunk_size": 2,
                  "windows": [(40.0, 400.0)], "adjacent_slices": 3, "pooling": "attention",
                  "dropout": 0.0, "finetune": "lora", "unfreeze_epoch": 0,
                  "lora": {"rank": 1, "alpha": 1.0, "targets": ["qkv"]}},
    }  # fmt: skip
    model = build_classifier(metadata)
    factors = [name for name, _ in model.named_parameters() if name.endswith("qkv.up")]
    assert len(factors) == len(model.encoder.backbone.blocks) == 2
    assert model(torch.zeros(1, 4, 32, 32, dtype=torch.uint8)).shape == (1, 2)
