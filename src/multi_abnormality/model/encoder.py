"""A timm backbone that turns slices into feature vectors."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from timm.layers import SelectAdaptivePool2d, create_attn
from timm.layers.adaptive_avgmax_pool import (
    AdaptiveAvgMaxPool2d,
    AdaptiveCatAvgMaxPool2d,
    FastAdaptiveAvgMaxPool,
    FastAdaptiveCatAvgMaxPool,
    FastAdaptiveMaxPool,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from multi_abnormality.errors import InputError
from multi_abnormality.model.backbones import create_backbone, fit_size

AIR = -1.0  # the lowest of every window

T = TypeVar("T")

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
        multiscale: whether the maps of two stages before the last are used as well, each by its
            mean and its maximum. They see small findings that are lost in the last, coarse one,
            and bring the loss to the early layers, so that random weights learn sooner.
        attention: on each feature map, before it is pooled: none, se (Hu et al. 2018,
            arXiv:1709.01507) or cbam (Woo et al. 2018, arXiv:1807.06521).
        slice_chunk: how many slices are encoded at a time. Only one chunk's activations are kept:
            in training the others are computed again for their gradients, which stay the same.
        pretrained: False for random weights, True for timm's hub, or the path of a weights file.

    Raises:
        InputError: timm knows no such backbone, or it takes no slices of this size, or not this
            attention or chunks, or its weights cannot be had, or do not fit. Random weights never
            stand in for weights that were asked for.
    """

    def __init__(
        self,
        backbone: str,
        channels: int,
        size: tuple[int, int] | None = None,
        global_pool: str | None = None,
        multiscale: bool = False,
        attention: str = "none",
        slice_chunk: int | None = None,
        pretrained: bool | str = False,
    ) -> None:
        super().__init__()
        self.margins, options = fit_size(backbone, size)
        self.backbone = create_backbone(backbone, channels, global_pool, pretrained, options)
        _pool_deterministically(self.backbone)
        self.stages = _middle_stages(self.backbone.feature_info) if multiscale else []
        self.chunk = slice_chunk
        if slice_chunk:
            _refuse_batch_statistics(self.backbone, backbone)
        example = torch.zeros(1, channels, *(size or self.backbone.default_cfg["input_size"][1:]))
        self.attentions = nn.ModuleList()
        if attention != "none":
            maps = self._try(lambda: self._maps(example), backbone, example)
            self.attentions += _attentions(attention, maps, self.backbone.num_features, backbone)
        self.width = self._try(lambda: self(example), backbone, example).shape[-1]

    @torch.no_grad()
    def _try(self, encode: Callable[[], T], backbone: str, example: Tensor) -> T:
        """Run once: what size fits and how wide the features are, timm says in several ways."""
        own = self.backbone.default_cfg["input_size"][1:]
        size = example.shape[2:]
        self.eval()
        try:
            return encode()
        except (AssertionError, RuntimeError) as error:  # timm's, for a size that does not fit
            raise InputError(
                f"model.backbone: {backbone} takes no slices of {size[0]} x {size[1]} voxels "
                f"({str(error) or 'some of its layers have a fixed size'}); set the last two of "
                f"preprocess.shape to {own[0]}, {own[1]}, which it was made for, or take a "
                "convolutional backbone such as efficientnet_b0"
            ) from error
        finally:
            self.train()

    def forward(self, slices: Tensor) -> Tensor:
        """(N, C, Y, X) in [-1, 1] -> (N, width)"""
        if not self.chunk or torch.compiler.is_exporting():  # a graph of any number of volumes
            return self._encode(slices)
        encode = self._encode
        if self.training and torch.is_grad_enabled():
            encode = partial(checkpoint, self._encode, use_reentrant=False)
        return torch.cat([encode(part) for part in slices.split(self.chunk)])

    def _encode(self, slices: Tensor) -> Tensor:
        if not self.stages and not self.attentions:
            features: Tensor = self.backbone(functional.pad(slices, self.margins, value=AIR))
            return features
        maps = self._maps(slices)
        if self.attentions:
            maps = [attend(one) for attend, one in zip(self.attentions, maps, strict=True)]
        *middle, last = maps
        parts = [self.backbone.forward_head(last, pre_logits=True)]
        for stage in middle:
            parts += [stage.mean(dim=(2, 3)), stage.amax(dim=(2, 3))]
        if not middle:
            return parts[0]
        return torch.cat([functional.layer_norm(part, part.shape[-1:]) for part in parts], dim=-1)

    def _maps(self, slices: Tensor) -> list[Tensor]:
        """The chosen stages' maps (N, C, Y, X), and the last features, in the backbone's form."""
        slices = functional.pad(slices, self.margins, value=AIR)
        if not self.stages:
            return [self.backbone.forward_features(slices)]
        last, maps = self.backbone.forward_intermediates(slices, indices=self.stages)
        return [*maps, last]


def _middle_stages(stages: list[dict[str, Any]]) -> list[int]:
    """Two before the last: of a pyramid the nearest, of a plain transformer a third apart."""
    count = len(stages)
    if count > 2 and len({stage["reduction"] for stage in stages}) == 1:
        return [count // 3, 2 * count // 3]
    return list(range(max(count - 3, 0), max(count - 1, 0)))


def _refuse_batch_statistics(network: nn.Module, backbone: str) -> None:
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        raise InputError(
            f"model.slice_chunk: {backbone} normalizes over all slices of a step (batch "
            "normalization), so chunks would change what it learns; set it to null, or take a "
            "backbone with layer normalization, such as convnext_tiny or vit_small_patch16_224"
        )


def _attentions(kind: str, maps: list[Tensor], width: int, backbone: str) -> list[nn.Module]:
    """One for each map."""
    if maps[-1].ndim != 4 or maps[-1].shape[1] != width:
        raise InputError(
            f"model.attention: {kind} works on feature maps, and {backbone} is a transformer, "
            "which has attention of its own; set it to none"
        )
    return [create_attn(kind, one.shape[1]) for one in maps]


def _pool_deterministically(backbone: nn.Module) -> None:
    for module in backbone.modules():
        if isinstance(module, SelectAdaptivePool2d) and type(module.pool) in _DETERMINISTIC:
            # By timm's types it is what __init__ sets first.
            module.pool = _DETERMINISTIC[type(module.pool)]()  # type: ignore[assignment]
