"""Backbones of timm, made for the slices at hand, with the weights that were asked for."""

import difflib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.layers import to_2tuple
from timm.models import load_state_dict
from torch import Tensor, nn

from multi_abnormality.errors import InputError, first_few

Margins = tuple[int, int, int, int]  # left, right, above, below


class Backbone(nn.Module):
    """What is used of timm's models, as a type: they share no class of their own."""

    default_cfg: dict[str, Any]
    feature_info: list[dict[str, Any]]  # of each stage: module, num_chs and reduction
    num_features: int
    forward_features: Callable[[Tensor], Tensor]
    forward_head: Callable[..., Tensor]
    forward_intermediates: Callable[..., tuple[Tensor, list[Tensor]]]


def fit_size(backbone: str, size: tuple[int, int] | None) -> tuple[Margins, dict[str, Any]]:
    """What slices of (Y, X) voxels need so that a backbone takes them.

    A convolutional backbone takes any size. A transformer is made for one, which is a multiple of
    its patch, so it is made for the slice's, with margins where they are needed.

    Returns:
        The margins, and options for timm.create_model.
    """
    if not timm.is_model(backbone):
        near = difflib.get_close_matches(backbone, timm.list_models(), n=5)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise InputError(f"model.backbone: timm has no {backbone!r}{hint}")
    try:
        with torch.device("meta"):
            embedding = getattr(timm.create_model(backbone), "patch_embed", None)
    except RuntimeError as error:  # timm's, for a name whose tag, after the dot, is unknown
        known = ", ".join(timm.list_pretrained(f"{backbone.partition('.')[0]}.*"))
        raise InputError(f"model.backbone: {error} There are: {known or 'none'}") from error
    if size is None or embedding is None or not hasattr(embedding, "img_size"):
        return (0, 0, 0, 0), {}
    patch = to_2tuple(embedding.patch_size)
    rows, columns = (-count % step for count, step in zip(size, patch, strict=True))
    margins = columns // 2, columns - columns // 2, rows // 2, rows - rows // 2
    return margins, {"img_size": (size[0] + rows, size[1] + columns)}


def create_backbone(
    backbone: str,
    channels: int,
    global_pool: str | None,
    pretrained: bool | str,
    options: dict[str, Any],
) -> Backbone:
    """Create one without its classifier; see SliceEncoder for the arguments and errors."""
    options = {"num_classes": 0, "in_chans": channels, **options}
    if global_pool:
        options["global_pool"] = global_pool
    if isinstance(pretrained, str):
        return _from_file(backbone, Path(pretrained), options)
    if not pretrained:
        return _random(backbone, global_pool, options)
    try:
        return _create(backbone, pretrained=True, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"model.pretrained: timm's weights of {backbone} cannot be had here ({error}); fetch "
            "them on a machine with a network and give the file's path, or set it to false"
        ) from error


def _create(backbone: str, **options: Any) -> Backbone:
    return cast(Backbone, timm.create_model(backbone, **options))


def _random(backbone: str, global_pool: str | None, options: dict[str, Any]) -> Backbone:
    try:
        return _create(backbone, **options)
    except (AssertionError, TypeError, ValueError) as error:
        if global_pool is None:
            raise
        raise InputError(
            f"model.global_pool: {backbone} does not take {global_pool!r}; null is its own way"
        ) from error


def _from_file(backbone: str, path: Path, options: dict[str, Any]) -> Backbone:
    if not path.is_file():
        raise InputError(f"model.pretrained: there is no file {path}")
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # whatever a file that is no weights file makes its readers raise
        raise InputError(
            f"model.pretrained: {path} is no file of weights ({error or type(error).__name__})"
        ) from error
    way_out = f"give weights of {backbone}, or set model.backbone to what these are of"
    try:
        model = _create(
            backbone, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **options
        )
        offered = _as_loaded(state, model)
    except Exception as error:  # torch's at other shapes, and timm's at other names to translate
        wanted = _weights(_create(backbone, **options))
        lacking = [name for name in wanted if _shape(state.get(name)) != wanted[name].shape]
        raise InputError(
            f"model.pretrained: {path} does not hold weights of {backbone}: of its {len(wanted)} "
            f"tensors {len(wanted) - len(lacking)} are there in name and shape, and not "
            f"{first_few(lacking)}; {way_out}"
        ) from error
    wanted = _weights(model)
    if missing := sorted(wanted.keys() - offered):
        raise InputError(
            f"model.pretrained: {path} holds {len(wanted) - len(missing)} of the {len(wanted)} "
            f"tensors of {backbone}; missing: {first_few(missing)}; {way_out}"
        )
    if broken := [name for name, part in wanted.items() if not part.isfinite().all()]:
        raise InputError(
            f"model.pretrained: {path} holds NaN or infinite numbers in {first_few(broken)}; fetch "
            "it again, or choose other weights"
        )
    return model


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """All that a file must hold: counters of batches are in no old one."""
    state: dict[str, Tensor] = model.state_dict()
    return {name: part for name, part in state.items() if not name.endswith("num_batches_tracked")}


def _shape(part: object) -> torch.Size | None:
    return part.shape if isinstance(part, Tensor) else None


def _as_loaded(state: dict[str, Any], model: nn.Module) -> set[str]:
    """The names of a file's tensors as timm loads them: many authors' own it knows to translate."""
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return set(translate(state, model) if translate else state)
