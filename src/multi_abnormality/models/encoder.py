"""A timm backbone that turns slices into feature vectors."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

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

from multi_abnormality.models.backbones import (
    Backbone,
    Padding,
    create_backbone,
    feature_maps,
    fit_size,
    keep_stages,
    middle_stages,
)
from multi_abnormality.models.pretrained_cfg import PretrainedCfg, input_normalization
from multi_abnormality.utils.errors import InputError

AIR = -1.0  # lowest value of every window

T = TypeVar("T")

# On a GPU, AdaptiveMaxPool2d has no deterministic backward; amax, in timm's fast versions, has.
_DETERMINISTIC = {
    nn.AdaptiveMaxPool2d: FastAdaptiveMaxPool,
    AdaptiveAvgMaxPool2d: FastAdaptiveAvgMaxPool,
    AdaptiveCatAvgMaxPool2d: FastAdaptiveCatAvgMaxPool,
}


class SliceEncoder(nn.Module):
    """Encodes each slice independently.

    Args:
        backbone: name of a timm model.
        channels: number of channels of a slice.
        size: (Y, X) of a slice; None for the backbone's default size.
        global_pool: timm's pooling of a slice's feature map; None for the backbone's default.
        multiscale: whether to add the mean and maximum of the feature maps of two stages before the
            last. They resolve small findings that the last, coarse map loses, and give early layers
            a short gradient path, so that random weights train faster. Or the indices of the maps
            whose mean and maximum are the features, as in timm's `out_indices`; layers above the
            last of them are removed.
        attn_layer: channel attention on each feature map before pooling: none, se (Hu et al. 2018,
            arXiv:1709.01507) or cbam (Woo et al. 2018, arXiv:1807.06521).
        encoder_chunk_size: number of slices encoded at a time. Only one chunk's activations are
            kept: in training the others are computed again for their gradients, which stay equal
            (activation checkpointing).
        pretrained_cfg: description of the pretrained weights, which slices are normalized for;
            None for random ones.
        weights: path of a weights file; None for random weights, as if they are loaded later.

    Raises:
        InputError: the backbone is unknown; it does not support the slices, the feature maps, the
            attention or chunks; or the weights do not match it. Random weights never silently
            replace pretrained ones.
    """

    def __init__(
        self,
        backbone: str,
        channels: int,
        size: tuple[int, int] | None = None,
        global_pool: str | None = None,
        multiscale: bool | Sequence[int] = False,
        attn_layer: str = "none",
        encoder_chunk_size: int | None = None,
        pretrained_cfg: PretrainedCfg | None = None,
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        model_args = pretrained_cfg.model_args if pretrained_cfg else {}
        input_size = pretrained_cfg.input_size if pretrained_cfg else None
        self.padding, options = fit_size(backbone, size, model_args)
        if pretrained_cfg and pretrained_cfg.fixed_input_size and size:
            _check_size(pretrained_cfg, size, self.padding)
        self.backbone = create_backbone(
            backbone, channels, global_pool, weights, model_args | options, input_size
        )
        self.normalization = input_normalization(pretrained_cfg, channels)
        if pretrained_cfg:
            _check_channels(self.backbone, pretrained_cfg, channels)
        _pool_deterministically(self.backbone)
        self.uses_last = isinstance(multiscale, bool)
        if not isinstance(multiscale, bool):
            _refuse_global_pool(global_pool)
            self.stages = keep_stages(self.backbone, multiscale, backbone)
        else:
            self.stages = middle_stages(self.backbone) if multiscale else []
        self.chunk = encoder_chunk_size
        if encoder_chunk_size:
            _refuse_batch_statistics(self.backbone, backbone)
        example = torch.zeros(1, channels, *(size or self.backbone.default_cfg["input_size"][1:]))
        self.attentions = nn.ModuleList()
        if attn_layer != "none":
            maps = self._probe(lambda: self._maps(example), backbone, example)
            self.attentions += _attentions(attn_layer, maps, self.backbone.num_features, backbone)
        self.width = self._probe(lambda: self(example), backbone, example).shape[-1]

    @torch.no_grad()
    def _probe(self, encode: Callable[[], T], backbone: str, example: Tensor) -> T:
        """Run once, since timm has no uniform way to query valid sizes and the feature width."""
        own = self.backbone.default_cfg["input_size"][1:]
        size = example.shape[2:]
        self.eval()
        try:
            return encode()
        except (AssertionError, RuntimeError) as error:  # timm's, for an unsupported size
            raise InputError(
                f"model.backbone: {backbone} does not support slices of {size[0]} x {size[1]} "
                f"voxels ({str(error) or 'some of its layers have a fixed size'}); set the last "
                f"two of preprocess.shape to {own[0]}, {own[1]}, its default, or choose a "
                "convolutional backbone such as efficientnet_b0"
            ) from error
        finally:
            self.train()

    def forward(self, slices: Tensor) -> Tensor:
        """Map (N, C, Y, X) in [-1, 1] to (N, width) features."""
        if not self.chunk or torch.compiler.is_exporting():  # the graph has a dynamic batch size
            return self._encode(slices)
        encode = self._encode
        if self.training and torch.is_grad_enabled():
            encode = partial(checkpoint, self._encode, use_reentrant=False)
        return torch.cat([encode(part) for part in slices.split(self.chunk)])

    def _encode(self, slices: Tensor) -> Tensor:
        if not self.stages and not self.attentions:
            features: Tensor = self.backbone(self._input(slices))
            return features
        maps = self._maps(slices)
        if self.attentions:
            maps = [attend(one) for attend, one in zip(self.attentions, maps, strict=True)]
        parts = []
        if self.uses_last:
            *maps, last = maps
            parts.append(self.backbone.forward_head(last, pre_logits=True))
        for stage in maps:
            parts += [stage.mean(dim=(2, 3)), stage.amax(dim=(2, 3))]
        if not maps:
            return parts[0]
        return torch.cat([functional.layer_norm(part, part.shape[-1:]) for part in parts], dim=-1)

    def _input(self, slices: Tensor) -> Tensor:
        """Pad slices with air, and normalize them as the pretrained weights expect."""
        slices = functional.pad(slices, self.padding, value=AIR)
        return slices if self.normalization is None else self.normalization(slices)

    def _maps(self, slices: Tensor) -> list[Tensor]:
        """Return the (N, C, Y, X) maps of the chosen stages, and the last features if used."""
        slices = self._input(slices)
        if not self.stages:
            return [self.backbone.forward_features(slices)]
        if not self.uses_last:
            return feature_maps(self.backbone, slices, self.stages)
        last, maps = self.backbone.forward_intermediates(slices, indices=self.stages)
        return [*maps, last]


def _check_size(cfg: PretrainedCfg, size: tuple[int, int], padding: Padding) -> None:
    left, right, top, bottom = padding
    padded = [size[0] + top + bottom, size[1] + left + right]
    if padded != list(cfg.input_size[1:]):
        own = ", ".join(map(str, cfg.input_size[1:]))
        raise InputError(
            f"model.backbone: {cfg.source or cfg.architecture} has a fixed_input_size of {own}, "
            f"but slices have {size[0]} x {size[1]} voxels; set the last two of preprocess.shape "
            f"to {own}, or model.pretrained_cfg_overlay.fixed_input_size to false, which adapts "
            "the network to the slices"
        )


def _check_channels(backbone: Backbone, cfg: PretrainedCfg, channels: int) -> None:
    """Refuse weights whose first layer timm would leave random for this number of channels."""
    if cfg.sha256 is None or channels == cfg.input_size[0]:
        return
    names = backbone.default_cfg.get("first_conv") or ()
    names = [names] if isinstance(names, str) else names
    layers = [backbone.get_submodule(name) for name in names]
    if not layers or not all(isinstance(layer, nn.Conv2d) for layer in layers):
        raise InputError(
            f"model.backbone: {cfg.source or cfg.architecture} takes {cfg.input_size[0]} input "
            f"channels, but model.windows and model.adjacent_slices give {channels}, and its first "
            "layer cannot be adapted; choose as many windows, and 1 for model.adjacent_slices"
        )


def _refuse_global_pool(global_pool: str | None) -> None:
    if global_pool is not None:
        raise InputError(
            f"model.global_pool: {global_pool!r} has no effect if model.multiscale lists feature "
            "maps, whose mean and maximum are taken; set it to null"
        )


def _refuse_batch_statistics(network: nn.Module, backbone: str) -> None:
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        raise InputError(
            f"model.encoder_chunk_size: {backbone} normalizes over all slices of a step (batch "
            "normalization), so chunks would change the result; set it to null, or choose a "
            "backbone with layer normalization, such as convnext_tiny or vit_small_patch16_224"
        )


def _attentions(kind: str, maps: list[Tensor], width: int, backbone: str) -> list[nn.Module]:
    """Create an attention layer for each map."""
    if maps[-1].ndim != 4 or maps[-1].shape[1] != width:
        raise InputError(
            f"model.attn_layer: {kind} requires feature maps, but {backbone} is a transformer with "
            "attention of its own; set it to none"
        )
    return [create_attn(kind, one.shape[1]) for one in maps]


def _pool_deterministically(backbone: nn.Module) -> None:
    for module in backbone.modules():
        if isinstance(module, SelectAdaptivePool2d) and type(module.pool) in _DETERMINISTIC:
            # timm annotates the type that __init__ assigns.
            module.pool = _DETERMINISTIC[type(module.pool)]()  # type: ignore[assignment]
