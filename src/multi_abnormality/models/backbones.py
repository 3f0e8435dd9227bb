"""timm backbones, created for the slice size, and the feature maps of their stages."""

import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.layers import to_2tuple
from timm.models import load_state_dict
from torch import Tensor, nn

from multi_abnormality.utils.errors import InputError, first_few

Padding = tuple[int, int, int, int]  # left, right, top, bottom


class Backbone(nn.Module):
    """Interface of timm's models, which have no common base class."""

    default_cfg: dict[str, Any]
    feature_info: list[dict[str, Any]]  # per stage: module, num_chs and reduction
    num_features: int
    forward_features: Callable[[Tensor], Tensor]
    forward_head: Callable[..., Tensor]
    forward_intermediates: Callable[..., Any]  # of the last features and the chosen maps
    prune_intermediate_layers: Callable[..., list[int]]


def check_name(backbone: str) -> None:
    """Check that timm has a backbone; the error suggests similar names and lists known tags."""
    if not timm.is_model(backbone):
        near = difflib.get_close_matches(backbone, timm.list_models(), n=5)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise InputError(f"model.backbone: timm has no {backbone!r}{hint}")
    try:
        timm.get_pretrained_cfg(backbone)
    except RuntimeError as error:  # for an unknown tag after the dot
        known = ", ".join(timm.list_pretrained(f"{backbone.partition('.')[0]}.*"))
        raise InputError(f"model.backbone: {error} Available: {known or 'none'}") from error


def fit_size(
    backbone: str, size: tuple[int, int] | None, model_args: dict[str, Any]
) -> tuple[Padding, dict[str, Any]]:
    """Return the padding and the timm options for slices of (Y, X) voxels.

    A convolutional backbone takes any size. A transformer is created for one size, a multiple of
    its patch size, so slices are padded to the next multiple.

    Args:
        backbone: name of a timm model.
        size: (Y, X) of a slice; None for the backbone's default size.
        model_args: further arguments of the network.

    Returns:
        The padding, and options for timm.create_model.
    """
    check_name(backbone)
    try:
        with torch.device("meta"):
            embedding = getattr(timm.create_model(backbone, **model_args), "patch_embed", None)
    except Exception as error:  # timm raises many types
        problem = f"does not take the arguments {model_args}" if model_args else "cannot be created"
        hint = "correct model_args in its config.json" if model_args else "choose another"
        raise InputError(f"model.backbone: {backbone} {problem} ({error!r}); {hint}") from error
    if size is None or embedding is None or not hasattr(embedding, "img_size"):
        return (0, 0, 0, 0), {}
    patch = to_2tuple(embedding.patch_size)
    rows, columns = (-count % step for count, step in zip(size, patch, strict=True))
    padding = columns // 2, columns - columns // 2, rows // 2, rows - rows // 2
    return padding, {"img_size": (size[0] + rows, size[1] + columns)}


def create_backbone(
    backbone: str,
    channels: int,
    global_pool: str | None,
    weights: Path | None,
    options: dict[str, Any],
    input_size: Sequence[int] | None = None,
) -> Backbone:
    """Create a backbone without its classifier; see SliceEncoder for arguments and errors.

    Args:
        input_size: channels, y and x that the weights are for; None for timm's default.
    """
    options = {**options, "num_classes": 0, "in_chans": channels}
    overlay: dict[str, Any] = {"input_size": tuple(input_size)} if input_size else {}
    if global_pool:
        options["global_pool"] = global_pool
    if weights is None:
        return _random(backbone, global_pool, options | {"pretrained_cfg_overlay": overlay})
    return _from_file(backbone, weights, options, overlay)


def _create(backbone: str, **options: Any) -> Backbone:
    return cast(Backbone, timm.create_model(backbone, **options))


def _random(backbone: str, global_pool: str | None, options: dict[str, Any]) -> Backbone:
    try:
        return _create(backbone, **options)
    except (AssertionError, TypeError, ValueError) as error:
        if global_pool is None:
            raise
        raise InputError(
            f"model.global_pool: {backbone} does not support {global_pool!r}; null is its default"
        ) from error


def _from_file(
    backbone: str, path: Path, options: dict[str, Any], overlay: dict[str, Any]
) -> Backbone:
    if not path.is_file():
        raise InputError(f"model.pretrained: file not found: {path}")
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # readers raise many types for a file of another kind
        reason = str(error) or type(error).__name__
        if "weights_only" in reason:
            reason = (
                "torch.load finds no tensors; save the model's state_dict, or name a file of "
                "safetensors .safetensors"
            )
        raise InputError(f"model.pretrained: {path} is not a weights file ({reason})") from error
    overlay = overlay | {"file": str(path)}
    hint = f"give weights of {backbone}, or set model.backbone to the model they belong to"
    try:
        model = _create(backbone, pretrained=True, pretrained_cfg_overlay=overlay, **options)
        provided = _translated(state, model)
    except Exception as error:  # torch raises for other shapes, timm for unknown names
        required = _weights(_create(backbone, **options))
        missing = [name for name in required if _shape(state.get(name)) != required[name].shape]
        raise InputError(
            f"model.pretrained: {path} is not a weights file of {backbone}: "
            f"{len(required) - len(missing)} of its {len(required)} tensors match in name and "
            f"shape; missing: {first_few(missing)}; {hint}"
        ) from error
    required = _weights(model)
    if missing := sorted(required.keys() - provided.keys()):
        raise InputError(
            f"model.pretrained: {path} has {len(required) - len(missing)} of the {len(required)} "
            f"tensors of {backbone}; missing: {first_few(missing)}; {hint}"
        )
    for name, tensor in required.items():
        problem = None
        if tensor.is_floating_point() and not provided[name].is_floating_point():
            problem = "integers or complex numbers"
        elif not tensor.isfinite().all():
            problem = "NaN or infinite values"
        elif name.endswith("running_var") and tensor.min() < 0:
            problem = "negative variances"
        if problem:
            raise InputError(
                f"model.pretrained: {path} has {problem} in {name}; fetch it again, or choose "
                "other weights"
            )
    return model


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a file must hold; old files lack `num_batches_tracked`."""
    state: dict[str, Tensor] = model.state_dict()
    return {name: part for name, part in state.items() if not name.endswith("num_batches_tracked")}


def _shape(part: object) -> torch.Size | None:
    return part.shape if isinstance(part, Tensor) else None


def _translated(state: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Return a file's tensors after timm's `checkpoint_filter_fn`, which changes names."""
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return dict(translate(state, model) if translate else state)


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
