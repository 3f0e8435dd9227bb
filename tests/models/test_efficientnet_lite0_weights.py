"""Real ImageNet weights, of EfficientNet-Lite0: features equal the reference implementation's."""

from pathlib import Path

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet

from lite0_weights import BACKBONE, reference_weights, save_lite0
from multi_abnormality.config.schema import Params
from multi_abnormality.models.encoder import SliceEncoder
from multi_abnormality.models.pretrained_weights import find_pretrained


@pytest.fixture(scope="module")
def reference() -> EfficientNet:
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(reference_weights())
    return network.eval()


@pytest.mark.parametrize("size", [(224, 224), (160, 192)])  # the reference pads for 224
def test_features_equal_those_of_the_reference(
    size: tuple[int, int], reference: EfficientNet, small_params: Params, tmp_path: Path
):
    chosen = {"backbone": BACKBONE, "pretrained": str(save_lite0(tmp_path / "lite0.pth"))}
    cfg, weights = find_pretrained(small_params.model.model_copy(update=chosen))
    encoder = SliceEncoder(BACKBONE, 3, size, pretrained_cfg=cfg, weights=weights).eval()
    slices = torch.rand(2, 3, *size, generator=torch.manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        expected = reference.extract_features(slices).mean(dim=(2, 3))
        torch.testing.assert_close(encoder(slices), expected, rtol=0, atol=1e-5)
