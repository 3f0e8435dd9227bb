import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from multi_abnormality.errors import InputError
from multi_abnormality.model.encoder import SliceEncoder

BACKBONE = "test_efficientnet"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model(BACKBONE).state_dict(), path)
    return path


def test_an_unknown_backbone_is_told_with_the_nearest():
    with pytest.raises(InputError, match=r"no 'efficientnet_b00'; near: .*efficientnet_b0"):
        SliceEncoder("efficientnet_b00", 3)


@pytest.mark.parametrize(("backbone", "pool"), [("test_vit", "catavgmax"), (BACKBONE, "most")])
def test_a_pooling_that_the_backbone_lacks_is_an_error(backbone: str, pool: str):
    with pytest.raises(InputError, match=rf"model\.global_pool: {backbone} does not take '{pool}'"):
        SliceEncoder(backbone, 3, global_pool=pool)


@pytest.mark.parametrize("multiscale", [False, True])
@pytest.mark.parametrize("pool", [None, "max", "catavgmax"])
def test_width_is_that_of_the_features(pool: str | None, multiscale: bool):
    encoder = SliceEncoder(BACKBONE, 3, (32, 32), pool, multiscale)
    assert encoder(torch.zeros(2, 3, 32, 32)).shape == (2, encoder.width)


def test_an_unknown_tag_is_told_with_those_there_are():
    with pytest.raises(InputError, match=r"Invalid pretrained tag .*efficientnet_b0\.ra_in1k"):
        SliceEncoder("efficientnet_b0.nonsense", 3)


@pytest.mark.parametrize("pool", ["max", "avgmax", "catavgmax"])
def test_pooling_is_timms_without_the_operation_that_no_gpu_does_deterministically(pool: str):
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
def test_a_size_that_the_backbone_does_not_take_is_told_with_the_one_that_it_does(backbone: str):
    own = timm.get_pretrained_cfg(backbone).input_size[1]
    with pytest.raises(InputError, match=rf"{backbone} takes no slices of 56 x 72 .*{own}, {own},"):
        SliceEncoder(backbone, 3, (56, 72))
    assert SliceEncoder(backbone, 3, (own, own)).width


@pytest.mark.parametrize("backbone", ["test_vit", "vit_tiny_patch16_224", "convnext_atto"])
@pytest.mark.parametrize("multiscale", [False, True])
def test_transformers_take_slices_of_any_size(backbone: str, multiscale: bool):
    encoder = SliceEncoder(backbone, 3, (56, 73), multiscale=multiscale)
    assert encoder(torch.zeros(2, 3, 56, 73)).shape == (2, encoder.width)


@pytest.mark.parametrize("kind", ["se", "cbam"])
@pytest.mark.parametrize("multiscale", [False, True])
def test_attention_on_maps_weighs_them(kind: str, multiscale: bool):
    torch.manual_seed(0)
    encoder = SliceEncoder(BACKBONE, 3, (64, 64), multiscale=multiscale, attention=kind)
    slices = torch.randn(2, 3, 64, 64)
    encoder(slices).sum().backward()
    assert len(encoder.attentions) == (3 if multiscale else 1)
    assert all(p.grad is not None for p in encoder.attentions.parameters())
    with pytest.raises(InputError, match=r"model\.attention: se works on feature maps"):
        SliceEncoder("test_vit", 3, attention="se")


def gradients(encoder: SliceEncoder, slices: torch.Tensor, chunk: int | None):
    encoder.chunk = chunk
    encoder.zero_grad()
    encoder(slices).square().sum().backward()
    return [p.grad.clone() for p in encoder.parameters() if p.grad is not None]


@pytest.mark.parametrize("backbone", ["test_vit", "convnext_atto"])
def test_gradients_are_the_same_whatever_the_chunk(backbone: str):
    torch.manual_seed(0)
    # In float64: in float32, gradients that all but cancel have other digits on each processor.
    encoder = SliceEncoder(backbone, 3, (64, 64), multiscale=True, slice_chunk=2).double()
    slices = torch.randn(7, 3, 64, 64, dtype=torch.float64)
    whole = gradients(encoder, slices, None)
    for chunk in (1, 2, 3, 7, 50):
        torch.testing.assert_close(gradients(encoder, slices, chunk), whole, rtol=1e-9, atol=1e-12)


def test_chunks_keep_the_activations_of_one():
    encoder = SliceEncoder("test_vit", 3, (160, 160), slice_chunk=1)

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


def test_chunks_bound_what_is_encoded_at_once_outside_of_training_too():
    torch.manual_seed(0)
    encoder = SliceEncoder("test_vit", 3, (64, 64), slice_chunk=3).eval()
    sizes = []
    encoder.backbone.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    slices = torch.randn(7, 3, 64, 64)
    with torch.inference_mode():
        features = encoder(slices)
        encoder.chunk = None
        torch.testing.assert_close(features, encoder(slices))
    assert sizes == [3, 3, 1, 7]


def test_batch_statistics_exclude_chunks():
    with pytest.raises(InputError, match=r"model\.slice_chunk: test_efficientnet normalizes"):
        SliceEncoder(BACKBONE, 3, slice_chunk=4)


def test_a_weights_file_is_loaded(weights: Path):
    wanted = torch.load(weights)["conv_stem.weight"]
    found = SliceEncoder(BACKBONE, 3, pretrained=str(weights)).backbone.conv_stem.weight
    torch.testing.assert_close(found, wanted)


def test_a_weights_file_serves_another_number_of_windows(weights: Path):
    encoder = SliceEncoder(BACKBONE, 5, pretrained=str(weights))
    assert encoder.backbone.conv_stem.weight.shape[1] == 5
    wanted = torch.load(weights)["blocks.0.0.conv.weight"]
    torch.testing.assert_close(encoder.backbone.blocks[0][0].conv.weight, wanted)


def test_weights_under_their_authors_names_are_loaded(tmp_path: Path):
    """DINOv2's own files, which timm translates."""
    backbone, path = "vit_small_patch14_reg4_dinov2", tmp_path / "dinov2.pth"
    state = timm.create_model(backbone, img_size=56).state_dict()
    wanted = state["register_tokens"] = state.pop("reg_token") + 1
    state["mask_token"] = torch.zeros(1, 384)
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 384), state["pos_embed"]], dim=1)
    torch.save(state, path)
    found = SliceEncoder(backbone, 3, (56, 56), pretrained=str(path)).backbone.reg_token
    torch.testing.assert_close(found, wanted)
    del state["register_tokens"]
    torch.save(state, path)
    with pytest.raises(InputError, match="reg_token"):
        SliceEncoder(backbone, 3, (56, 56), pretrained=str(path))


def test_weights_that_cannot_be_had_are_an_error(tmp_path: Path):
    with pytest.raises(InputError, match=r"there is no file .*absent\.pth"):
        SliceEncoder(BACKBONE, 3, pretrained=str(tmp_path / "absent.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match=r"text\.pth is no file of weights \(.+\)"):
        SliceEncoder(BACKBONE, 3, pretrained=str(tmp_path / "text.pth"))


def test_weights_of_another_architecture_are_told_by_how_many_fit(weights: Path, tmp_path: Path):
    way_out = r"give weights of test_resnet, or set model\.backbone"
    with pytest.raises(InputError, match=rf"of its \d+ tensors 0 are there.*{way_out}"):
        SliceEncoder("test_resnet", 3, pretrained=str(weights))
    state = timm.create_model("test_resnet").state_dict()
    stem = state["conv1.0.weight"]
    state["conv1.0.weight"] = torch.zeros(2 * len(stem), *stem.shape[1:])
    torch.save(state, tmp_path / "wider.pth")
    count = sum("num_batches" not in name and "fc." not in name for name in state)
    told = rf"of its {count} tensors {count - 1} are .*, and not conv1\.0\.weight; {way_out}"
    with pytest.raises(InputError, match=told):
        SliceEncoder("test_resnet", 3, pretrained=str(tmp_path / "wider.pth"))


def test_a_file_with_part_of_the_weights_is_an_error(weights: Path):
    part = torch.load(weights)
    del part["conv_head.weight"]
    torch.save(part, weights)
    with pytest.raises(InputError, match=r"holds \d+ of the \d+ tensors .*conv_head\.weight"):
        SliceEncoder(BACKBONE, 3, pretrained=str(weights))


def test_weights_that_are_no_numbers_are_an_error(weights: Path):
    state = torch.load(weights)
    state["conv_head.weight"].view(-1)[7] = torch.nan
    torch.save(state, weights)
    with pytest.raises(InputError, match=r"holds NaN or infinite numbers in conv_head\.weight"):
        SliceEncoder(BACKBONE, 3, pretrained=str(weights))


def test_without_a_network_pretrained_weights_are_an_error():
    program = (
        "from multi_abnormality.errors import InputError\n"
        "from multi_abnormality.model.encoder import SliceEncoder\n"
        "try: SliceEncoder('test_efficientnet', 3, pretrained=True)\n"
        "except InputError as error: print(error)\n"
    )
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=offline, capture_output=True, text=True, check=True)
    assert "weights of test_efficientnet cannot be had here" in done.stdout
    assert "give the file's path" in done.stdout
