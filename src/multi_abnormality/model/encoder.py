"""A timm backbone that turns slices into feature vectors."""

import difflib
from pathlib import Path

import timm
import torch
from timm.layers import SelectAdaptivePool2d
from timm.layers.adaptive_avgmax_pool import (
    AdaptiveAvgMaxPool2d,
    AdaptiveCatAvgMaxPool2d,
    FastAdaptiveAvgMaxPool,
    FastAdaptiveCatAvgMaxPool,
    FastAdaptiveMaxPool,
)
from timm.models import load_state_dict
from torch import Tensor, nn
from torch.nn import functional

from multi_abnormality.errors import InputError

# A GPU's AdaptiveMaxPool2d has no deterministic way back; amax, in timm's fast twins, has.
_DETERMINISTIC = {
    nn.AdaptiveMaxPool2d: FastAdaptiveMaxPool,
    AdaptiveAvgMaxPool2d: FastAdaptiveAvgMaxPool,
    AdaptiveCatAvgMaxPool2d: FastAdaptiveCatAvgMaxPool,
}


class SliceEncoder(nn.Module):
    """Encodes each slice by itself.

    Args:
        backbone: a timm model's name.
        channels: of a slice.
        size: of a slice, (Y, X); None for the size that the backbone was made for.
        global_pool: how timm pools a slice's feature map; None for the backbone's own way.
        multiscale: whether the maps of the two stages before the last are used as well, each by its
            mean and its maximum. They see small findings that are lost in the last, coarse one,
            and bring the loss to the early layers, so that random weights learn sooner.
        pretrained: False for random weights, True for timm's hub, or the path of a weights file.

    Raises:
        InputError: timm knows no such backbone, or it takes no slices of this size, or its weights
            cannot be had, or do not fit. Random weights never stand in for weights that were asked
            for.
    """

    def __init__(
        self,
        backbone: str,
        channels: int,
        size: tuple[int, int] | None = None,
        global_pool: str | None = None,
        multiscale: bool = False,
        pretrained: bool | str = False,
    ) -> None:
        super().__init__()
        self.backbone = _create(backbone, channels, global_pool, pretrained)
        _pool_deterministically(self.backbone)
        info = self.backbone.feature_info if multiscale else []
        self.stages = range(max(len(info) - 3, 0), max(len(info) - 1, 0))
        self.width = self._measure(backbone, channels, size)

    def _measure(self, backbone: str, channels: int, size: tuple[int, int] | None) -> int:
        """Width of the features: timm says it in several ways, not all of them for each model."""
        own = self.backbone.default_cfg["input_size"][1:]
        size = size or own
        self.eval()
        try:
            with torch.no_grad():
                width = self(torch.zeros(1, channels, *size)).shape[-1]
        except (AssertionError, RuntimeError) as error:  # timm's, for a size that does not fit
            raise InputError(
                f"model.backbone: {backbone} takes no slices of {size[0]} x {size[1]} voxels "
                f"({str(error) or 'some of its layers have a fixed size'}); set the last two of "
                f"preprocess.shape to {own[0]}, {own[1]}, which it was made for, or take a "
                "convolutional backbone such as efficientnet_b0"
            ) from error
        self.train()
        return width

    def forward(self, slices: Tensor) -> Tensor:
        """(N, C, Y, X) -> (N, width)"""
        if not self.stages:
            return self.backbone(slices)
        last, maps = self.backbone.forward_intermediates(slices, indices=list(self.stages))
        parts = [self.backbone.forward_head(last, pre_logits=True)]
        for stage in maps:
            parts += [stage.mean(dim=(2, 3)), stage.amax(dim=(2, 3))]
        return torch.cat([functional.layer_norm(part, part.shape[-1:]) for part in parts], dim=-1)


def _create(
    backbone: str, channels: int, global_pool: str | None, pretrained: bool | str
) -> nn.Module:
    if not timm.is_model(backbone):
        near = difflib.get_close_matches(backbone, timm.list_models(), n=5)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise InputError(f"model.backbone: timm has no {backbone!r}{hint}")
    options = {"num_classes": 0, "in_chans": channels}
    if global_pool:
        options["global_pool"] = global_pool
    if isinstance(pretrained, str):
        return _from_file(backbone, Path(pretrained), options)
    if not pretrained:
        return _random(backbone, global_pool, options)
    try:
        return timm.create_model(backbone, pretrained=True, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"model.pretrained: timm's weights of {backbone} cannot be had here ({error}); fetch "
            "them on a machine with a network and give the file's path, or set it to false"
        ) from error


def _pool_deterministically(backbone: nn.Module) -> None:
    for module in backbone.modules():
        if isinstance(module, SelectAdaptivePool2d) and type(module.pool) in _DETERMINISTIC:
            module.pool = _DETERMINISTIC[type(module.pool)]()


def _random(backbone: str, global_pool: str | None, options: dict) -> nn.Module:
    try:
        return timm.create_model(backbone, **options)
    except (AssertionError, TypeError, ValueError) as error:
        if global_pool is None:
            raise
        raise InputError(
            f"model.global_pool: {backbone} does not take {global_pool!r}; null is its own way"
        ) from error


def _from_file(backbone: str, path: Path, options: dict) -> nn.Module:
    if not path.is_file():
        raise InputError(f"model.pretrained: there is no file {path}")
    try:
        offered = set(load_state_dict(str(path), weights_only=True))
        model = timm.create_model(
            backbone, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **options
        )
    except Exception as error:  # whatever a file that is no weights file makes its readers raise
        raise InputError(
            f"model.pretrained: {path} does not hold weights of {backbone}: {error}"
        ) from error
    wanted = {key for key in model.state_dict() if not key.endswith("num_batches_tracked")}
    if missing := sorted(wanted - offered):
        raise InputError(
            f"model.pretrained: {path} holds {len(wanted) - len(missing)} of the {len(wanted)} "
            f"tensors of {backbone}; missing: {', '.join(missing[:5])}"
        )
    return model
