from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from multi_abnormality.models.encoder import SliceEncoder
from multi_abnormality.utils.errors import InputError

BACKBONE = "test_efficientnet"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model(BACKBONE).state_dict(), path)
    return path


def test_unknown_backbone_error_suggests_similar_names():
    with pytest.raises(InputError, match=r"no 'efficientnet_b00'; did you mean .*efficientnet_b0"):
        SliceEncoder("efficientnet_b00", 3)


@pytest.mark.parametrize(("backbone", "pool"), [("test_vit", "catavgmax"), (BACKBONE, "most")])
def test_unsupported_global_pool_is_refused(backbone: str, pool: str):
    with pytest.raises(
        InputError, match=rf"model\.global_pool: {backbone} does not support '{pool}'"
    ):
        SliceEncoder(backbone, 3, global_pool=pool)


@pytest.mark.parametrize("multiscale", [False, True])
@pytest.mark.parametrize("pool", [None, "max", "catavgmax"])
def test_width_matches_the_features(pool: str | None, multiscale: bool):
    encoder = SliceEncoder(BACKBONE, 3, (32, 32), pool, multiscale)
    assert encoder(torch.zeros(2, 3, 32, 32)).shape == (2, encoder.width)


def test_unknown_pretrained_tag_error_lists_available_ones():
    with pytest.raises(InputError, match=r"Invalid pretrained tag .*efficientnet_b0\.ra_in1k"):
        SliceEncoder("efficientnet_b0.nonsense", 3)


@pytest.mark.parametrize("pool", ["max", "avgmax", "catavgmax"])
def test_global_pool_matches_timm_with_deterministic_operations(pool: str):
    torch.manual_seed(0)
    encoder = SliceEncoder(BACKBONE, 3, global_pool=pool).eval()
    torch.manual_seed(0)
    plain = timm.create_model(BACKBONE, num_classes=0, global_pool=pool).eval()
    slices = torch.randn(2, 3, 64, 64)
    with torch.profiler.profile() as profile:
        features = encoder(slices)
    torch.testing.assert_close(features, plain(slices))
    operations = {event.key for event in profile.key_averages()}
    assert "aten::amax" in operations
    assert not [name for name in operations if "adaptive_max_pool2d" in name]


@pytest.mark.parametrize("backbone", ["halonet26t", "coatnet_nano_cc_224"])
def test_unsupported_size_error_names_the_default_size(backbone: str):
    own = timm.get_pretrained_cfg(backbone).input_size[1]
    with pytest.raises(InputError, match=rf"does not support slices of 56 x 72 .*{own}, {own},"):
        SliceEncoder(backbone, 3, (56, 72))
    assert SliceEncoder(backbone, 3, (own, own)).width


@pytest.mark.parametrize("backbone", ["test_vit", "vit_tiny_patch16_224", "convnext_atto"])
@pytest.mark.parametrize("multiscale", [False, True])
def test_transformers_accept_any_slice_size(backbone: str, multiscale: bool):
    encoder = SliceEncoder(backbone, 3, (56, 73), multiscale=multiscale)
    assert encoder(torch.zeros(2, 3, 56, 73)).shape == (2, encoder.width)


@pytest.mark.parametrize("kind", ["se", "cbam"])
@pytest.mark.parametrize("multiscale", [False, True])
def test_channel_attention_on_each_map(kind: str, multiscale: bool):
    torch.manual_seed(0)
    encoder = SliceEncoder(BACKBONE, 3, (64, 64), multiscale=multiscale, attn_layer=kind)
    slices = torch.randn(2, 3, 64, 64)
    encoder(slices).sum().backward()
    assert len(encoder.attentions) == (3 if multiscale else 1)
    assert all(p.grad is not None for p in encoder.attentions.parameters())
    with pytest.raises(InputError, match=r"model\.attn_layer: se requires feature maps"):
        SliceEncoder("test_vit", 3, attn_layer="se")


def gradients(encoder: SliceEncoder, slices: torch.Tensor, chunk: int | None):
    encoder.chunk = chunk
    encoder.zero_grad()
    encoder(slices).square().sum().backward()
    return [p.grad.clone() for p in encoder.parameters() if p.grad is not None]


@pytest.mark.parametrize("backbone", ["test_vit", "convnext_atto"])
def test_gradients_do_not_depend_on_the_chunk_size(backbone: str):
    torch.manual_seed(0)
    # In float64: in float32, gradients that nearly cancel differ between processors.
    encoder = SliceEncoder(backbone, 3, (64, 64), multiscale=True, encoder_chunk_size=2).double()
    slices = torch.randn(7, 3, 64, 64, dtype=torch.float64)
    whole = gradients(encoder, slices, None)
    for chunk in (1, 2, 3, 7, 50):
        torch.testing.assert_close(gradients(encoder, slices, chunk), whole, rtol=1e-9, atol=1e-12)


def test_only_one_chunks_activations_are_kept():
    encoder = SliceEncoder("test_vit", 3, (160, 160), encoder_chunk_size=1)

    def kept(slices: int) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.nbytes) or tensor, lambda tensor: tensor
        ):
            encoder(torch.zeros(slices, 3, 160, 160))
        return sum(sizes)

    chunked = kept(16)
    encoder.chunk = None
    assert chunked < kept(16) / 8


def test_chunks_are_used_in_inference_too():
    torch.manual_seed(0)
    encoder = SliceEncoder("test_vit", 3, (64, 64), encoder_chunk_size=3).eval()
    sizes = []
    encoder.backbone.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    slices = torch.randn(7, 3, 64, 64)
    with torch.inference_mode():
        features = encoder(slices)
        encoder.chunk = None
        torch.testing.assert_close(features, encoder(slices))
    assert sizes == [3, 3, 1, 7]


def test_chunks_with_batch_norm_are_refused():
    with pytest.raises(
        InputError, match=r"model\.encoder_chunk_size: test_efficientnet normalizes"
    ):
        SliceEncoder(BACKBONE, 3, encoder_chunk_size=4)


def test_weights_file_is_loaded(weights: Path):
    wanted = torch.load(weights)["conv_stem.weight"]
    found = SliceEncoder(BACKBONE, 3, weights=weights).backbone.conv_stem.weight
    torch.testing.assert_close(found, wanted)


def test_weights_file_is_adapted_to_the_number_of_windows(weights: Path):
    encoder = SliceEncoder(BACKBONE, 5, weights=weights)
    assert encoder.backbone.conv_stem.weight.shape[1] == 5
    wanted = torch.load(weights)["blocks.0.0.conv.weight"]
    torch.testing.assert_close(encoder.backbone.blocks[0][0].conv.weight, wanted)


def test_weights_with_original_names_are_translated(tmp_path: Path):
    """DINOv2's original files, which timm translates."""
    backbone, path = "vit_small_patch14_reg4_dinov2", tmp_path / "dinov2.pth"
    state = timm.create_model(backbone, img_size=56).state_dict()
    wanted = state["register_tokens"] = state.pop("reg_token") + 1
    state["mask_token"] = torch.zeros(1, 384)
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 384), state["pos_embed"]], dim=1)
    torch.save(state, path)
    found = SliceEncoder(backbone, 3, (56, 56), weights=path).backbone.reg_token
    torch.testing.assert_close(found, wanted)
    del state["register_tokens"]
    torch.save(state, path)
    with pytest.raises(InputError, match="reg_token"):
        SliceEncoder(backbone, 3, (56, 56), weights=path)


def test_invalid_weights_file_is_refused(tmp_path: Path):
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match=r"text\.pth is not a weights file \(.+\)"):
        SliceEncoder(BACKBONE, 3, weights=tmp_path / "text.pth")


@pytest.mark.parametrize("content", ["safetensors", "module"])
def test_a_file_without_state_dict_is_refused(content: str, tmp_path: Path):
    model, path = timm.create_model(BACKBONE), tmp_path / "weights.ckpt"
    if content == "safetensors":
        safetensors.torch.save_file(model.state_dict(), path)
    else:
        torch.save(model, path)
    with pytest.raises(InputError, match=r"save the model's state_dict") as error:
        SliceEncoder(BACKBONE, 3, weights=path)
    assert "weights_only" not in str(error.value)


def test_weights_of_another_architecture_error_counts_matching_tensors(
    weights: Path, tmp_path: Path
):
    hint = r"give weights of test_resnet, or set model\.backbone"
    with pytest.raises(InputError, match=rf"0 of its \d+ tensors match.*{hint}"):
        SliceEncoder("test_resnet", 3, weights=weights)
    state = timm.create_model("test_resnet").state_dict()
    stem = state["conv1.0.weight"]
    state["conv1.0.weight"] = torch.zeros(2 * len(stem), *stem.shape[1:])
    torch.save(state, tmp_path / "wider.pth")
    count = sum("num_batches" not in name and "fc." not in name for name in state)
    message = rf"{count - 1} of its {count} tensors match .*missing: conv1\.0\.weight; {hint}"
    with pytest.raises(InputError, match=message):
        SliceEncoder("test_resnet", 3, weights=tmp_path / "wider.pth")


def test_incomplete_weights_file_is_refused(weights: Path):
    part = torch.load(weights)
    del part["conv_head.weight"]
    torch.save(part, weights)
    with pytest.raises(InputError, match=r"has \d+ of the \d+ tensors .*conv_head\.weight"):
        SliceEncoder(BACKBONE, 3, weights=weights)


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("conv_head.weight", lambda tensor: tensor / 0, "NaN or infinite values"),
        ("conv_head.weight", lambda tensor: tensor.to(torch.int8), "integers or complex numbers"),
        ("conv_head.weight", lambda tensor: tensor + 1j, "integers or complex numbers"),
        ("bn1.running_var", lambda tensor: -tensor, "negative variances"),
    ],
)
def test_invalid_weights_are_refused(
    name: str, change: Callable[[torch.Tensor], torch.Tensor], expected: str, weights: Path
):
    state = torch.load(weights)
    torch.save(state | {name: change(state[name])}, weights)
    with pytest.raises(InputError, match=rf"has {expected} in {name}"):
        SliceEncoder(BACKBONE, 3, weights=weights)
