"""Explanations: attention over slices, and Grad-CAM within a slice.

Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) is computed on each feature map that the
classifier pools, so that with model.multiscale small findings are not lost in the last one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from multi_abnormality.evaluation.slice_rendering import in_scan
from multi_abnormality.models.backbones import has_one_resolution
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.models.encoder import SliceEncoder


@dataclass(frozen=True)
class Explanation:
    """Explanation of one finding in one volume."""

    attention: np.ndarray  # (Z,) weight of each slice; the sum is 1
    slice: int  # index of the slice within the scan with the most evidence
    padding: float  # fraction of the attention on slices outside the scan
    heat: np.ndarray  # (Y, X) float32 Grad-CAM of that slice, from 0 to 1; 0 without evidence


def explain(
    classifier: VolumeClassifier, volume: np.ndarray, findings: Sequence[int]
) -> list[Explanation]:
    """Explain findings in a volume.

    Args:
        classifier: classifier in evaluation mode.
        volume: (Z, Y, X) uint8 codes.
        findings: indices of the findings to explain.
    """
    device = next(classifier.parameters()).device
    codes = torch.from_numpy(volume)[None].to(device)
    with torch.no_grad():
        slices = classifier.slices(codes)  # (Z, C, Y, X)
        features = classifier.encoder(slices)
        height = classifier.heights(codes)
        attention = classifier.pooling(features[None], height)[1][0]
        evidence = attention.T * slice_logits(classifier, features, height[0]).sigmoid()
        inside = torch.from_numpy(in_scan(volume)).to(device)
        chosen = evidence.masked_fill(~inside[:, None], -1).argmax(dim=0)
    explanations = []
    for finding in findings:
        best = int(chosen[finding])
        heat = _grad_cam(classifier, slices[[best]], height[:, [best]], finding)
        weights = attention[finding].float().cpu().numpy()
        padding = float(attention[finding, ~inside].sum())
        explanations.append(Explanation(weights, best, padding, heat.cpu().numpy()))
    return explanations


def slice_logits(classifier: VolumeClassifier, features: Tensor, height: Tensor) -> Tensor:
    """Return the logits (S, F) that each of S slices has alone.

    Args:
        classifier: classifier in evaluation mode.
        features: (S, width), the encoder's output.
        height: (S,), as in `VolumeClassifier.classify`.
    """
    logits: Tensor = classifier.pooling(features[:, None], height[:, None])[0]
    return logits


def _grad_cam(classifier: VolumeClassifier, shown: Tensor, height: Tensor, finding: int) -> Tensor:
    """Compute the heat map (Y, X) of one slice (1, C, Y, X) at its height (1, 1)."""
    encoder, size = classifier.encoder, shown.shape[2:]
    with torch.enable_grad(), _feature_maps(encoder) as maps:
        logits = classifier.pooling(encoder(shown)[None], height)[0]
        gradients = torch.autograd.grad(logits[0, finding], maps)
    left, right, above, below = encoder.padding
    padded = size[0] + above + below, size[1] + left + right
    heat = torch.zeros(size, device=shown.device)
    for map_, gradient, stage in zip(maps, gradients, _stages(encoder), strict=True):
        image, slope = (_as_image(part.detach(), stage, padded) for part in (map_, gradient))
        cam = (slope.mean(dim=(1, 2), keepdim=True) * image).sum(dim=0).relu()
        cam = functional.interpolate(cam[None, None], padded, mode="bilinear")[0, 0]
        heat = heat + _normalize(cam[above : above + size[0], left : left + size[1]])
    return _normalize(heat)


def _stages(encoder: SliceEncoder) -> list[dict[str, Any]]:
    """Return timm's feature info of the pooled stages: module, num_chs and reduction."""
    info = encoder.backbone.feature_info
    indices = set(encoder.stages)
    if encoder.uses_last:
        # The last block of a plain transformer may output its class token only.
        indices.add(len(info) - (2 if has_one_resolution(encoder.backbone) else 1))
    return [info[index] for index in sorted(indices)]


@contextmanager
def _feature_maps(encoder: SliceEncoder) -> Iterator[list[Tensor]]:
    """Collect the outputs of the pooled stages while the encoder runs."""
    maps: list[Tensor] = []
    handles = [
        encoder.backbone.get_submodule(stage["module"]).register_forward_hook(
            lambda module, inputs, output: maps.append(output)  # noqa: ARG005
        )
        for stage in _stages(encoder)
    ]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _as_image(map_: Tensor, stage: dict[str, Any], padded: tuple[int, int]) -> Tensor:
    """Convert a slice's feature map to (C, y, x), from tokens or channels last if need be."""
    if map_.ndim == 3:
        rows, columns = (count // stage["reduction"] for count in padded)
        tokens = map_[0, -rows * columns :]  # class tokens are first
        image: Tensor = tokens.T.unflatten(1, (rows, columns))
        return image
    return map_[0] if map_.shape[1] == stage["num_chs"] else map_[0].permute(2, 0, 1)


def _normalize(heat: Tensor) -> Tensor:
    """Scale the maximum to 1, unless all is 0."""
    return heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny)
