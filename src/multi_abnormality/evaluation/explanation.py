"""Where a classifier looks: which slices count for a finding, and where in the slice.

Where in the slice is told by Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), on each map that
the classifier pools, so that with model.multiscale small findings are not lost in the last one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from multi_abnormality.evaluation.pictures import in_scan
from multi_abnormality.model.classifier import VolumeClassifier
from multi_abnormality.model.encoder import SliceEncoder


@dataclass(frozen=True)
class Explanation:
    """For one finding in one volume."""

    attention: np.ndarray  # (Z,) how much each slice counts; the sum is 1
    slice: int  # the one within the scan that speaks for the finding most
    padding: float  # share of the attention on slices outside the scan
    heat: np.ndarray  # (Y, X) float32: where in it, 0 to 1; all 0 where nothing speaks for it


def explain(
    classifier: VolumeClassifier, volume: np.ndarray, findings: Sequence[int]
) -> list[Explanation]:
    """Explain findings in a volume.

    Args:
        classifier: in evaluation mode.
        volume: (Z, Y, X) uint8 codes.
        findings: their places among the classifier's.
    """
    device = next(classifier.parameters()).device
    codes = torch.from_numpy(volume)[None].to(device)
    with torch.no_grad():
        slices = classifier.slices(codes)  # (Z, C, Y, X)
        features = classifier.encoder(slices)
        height = classifier.heights(codes)
        attention = classifier.pooling(features[None], height)[1][0]
        alone = classifier.pooling(features[:, None], height.T)[0]  # (Z, F), a logit a slice
        evidence = attention.T * alone.sigmoid()
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


def _grad_cam(classifier: VolumeClassifier, shown: Tensor, height: Tensor, finding: int) -> Tensor:
    """(Y, X) heat of one slice (1, C, Y, X) at its height (1, 1)."""
    encoder, size = classifier.encoder, shown.shape[2:]
    with torch.enable_grad(), _watched(encoder) as maps:
        logits = classifier.pooling(encoder(shown)[None], height)[0]
        gradients = torch.autograd.grad(logits[0, finding], maps)
    left, right, above, below = encoder.margins
    padded = size[0] + above + below, size[1] + left + right
    heat = torch.zeros(size, device=shown.device)
    for one, gradient, stage in zip(maps, gradients, _stages(encoder), strict=True):
        image, slope = (_as_image(part.detach(), stage, padded) for part in (one, gradient))
        cam = (slope.mean(dim=(1, 2), keepdim=True) * image).sum(dim=0).relu()
        cam = functional.interpolate(cam[None, None], padded, mode="bilinear")[0, 0]
        heat = heat + _to_one(cam[above : above + size[0], left : left + size[1]])
    return _to_one(heat)


def _stages(encoder: SliceEncoder) -> list[dict[str, Any]]:
    """What timm says of the stages that count: module, num_chs and reduction."""
    known = encoder.backbone.feature_info
    # A plain transformer's last block may pass on its class token alone.
    plain = len({stage["reduction"] for stage in known}) == 1
    places = {*encoder.stages, len(known) - (2 if plain and len(known) > 1 else 1)}
    return [known[place] for place in sorted(places)]


@contextmanager
def _watched(encoder: SliceEncoder) -> Iterator[list[Tensor]]:
    """The outputs of the stages that count, once the encoder has run."""
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
    """One slice's map as timm's backbones give it, to (C, y, x): of tokens or channels last too."""
    if map_.ndim == 3:
        rows, columns = (count // stage["reduction"] for count in padded)
        tokens = map_[0, -rows * columns :]  # class tokens are first
        image: Tensor = tokens.T.unflatten(1, (rows, columns))
        return image
    return map_[0] if map_.shape[1] == stage["num_chs"] else map_[0].permute(2, 0, 1)


def _to_one(heat: Tensor) -> Tensor:
    """The highest becomes 1, unless all is 0."""
    return heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny)
