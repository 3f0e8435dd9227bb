"""Feature maps of a timm backbone's stages: which are pooled, and how they are computed."""

from collections.abc import Sequence

from torch import Tensor

from multi_abnormality.models.backbones import Backbone
from multi_abnormality.utils.errors import InputError


def has_one_resolution(backbone: Backbone) -> bool:
    """Whether all maps have the same size, as in a plain transformer."""
    stages = backbone.feature_info
    return len(stages) > 1 and len({stage["reduction"] for stage in stages}) == 1


def middle_stages(backbone: Backbone) -> list[int]:
    """Choose two stages before the last: the nearest, or a third apart in a plain transformer."""
    count = len(backbone.feature_info)
    if count > 2 and has_one_resolution(backbone):
        return [count // 3, 2 * count // 3]
    return list(range(max(count - 3, 0), max(count - 1, 0)))


def keep_stages(backbone: Backbone, indices: Sequence[int], name: str) -> list[int]:
    """Remove the layers that the feature maps of some stages do not need.

    Args:
        backbone: timm's model, which is changed.
        indices: indices of the stages, as in timm's `out_indices`; negative: from the last.
        name: name of the backbone, for errors.

    Returns:
        The indices, ascending and from 0 on.

    Raises:
        InputError: there is no such stage, or one is given twice.
    """
    try:
        stages = sorted(backbone.prune_intermediate_layers(list(indices), prune_head=True))
    except AssertionError as error:
        reductions = [f"1/{stage['reduction']}" for stage in backbone.feature_info]
        raise InputError(
            f"model.multiscale: {list(indices)} is not possible with {name} ({error}); it has the "
            f"feature maps 0 to {len(reductions) - 1}, of {', '.join(reductions)} of a slice's size"
        ) from error
    if len(set(stages)) < len(stages):
        raise InputError(f"model.multiscale: {list(indices)} has a feature map twice; remove one")
    return stages


def feature_maps(backbone: Backbone, slices: Tensor, stages: Sequence[int]) -> list[Tensor]:
    """Return the (N, C, y, x) maps of stages that `keep_stages` kept."""
    maps: list[Tensor] = backbone.forward_intermediates(
        slices, indices=stages, stop_early=True, intermediates_only=True
    )
    return maps
