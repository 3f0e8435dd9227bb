"""Features of a frozen encoder, which are computed once instead of in every epoch.

Whether a run trains on them is a function of its parameters and its network alone, since they are
rounded to float16: a resumed run must not decide otherwise.
"""

import numpy as np
from torch import Tensor, nn

from multi_abnormality.config.schema import Model, Train
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.utils.errors import InputError


def uncached_reason(model: Model, train: Train) -> str | None:
    """Return why a run's parameters do not allow cached features; None if they do.

    Raises:
        InputError: `train.cache_features` is `required`, and they do not.
    """
    reason = None
    if train.cache_features == "never":
        reason = "train.cache_features is never"
    elif model.finetune != "frozen":
        reason = f"model.finetune is {model.finetune}, not frozen"
    elif model.attn_layer != "none":
        reason = f"model.attn_layer is {model.attn_layer}, whose attention is trained"
    elif train.augmentation != "none":
        reason = f"train.augmentation is {train.augmentation}, not none"
    elif train.mixup_prob or train.cutmix_prob:
        reason = "train.mixup_prob or train.cutmix_prob is not 0"
    _check_not_required(reason, train)
    return reason


def random_layer_reason(model: VolumeClassifier, train: Train) -> str | None:
    """Return why a network does not allow cached features; None if it does.

    Raises:
        InputError: `train.cache_features` is `required`, and it does not.
    """
    reason = None
    for name, layer in model.encoder.named_modules():
        is_dropout = isinstance(layer, nn.modules.dropout._DropoutNd)
        if getattr(layer, "p" if is_dropout else "drop_prob", 0):
            reason = f"the backbone's layer {name} drops a random part of its input"
        elif getattr(layer, "running_mean", None) is not None and layer.weight is None:
            reason = f"the backbone's layer {name} updates its statistics in training"
    _check_not_required(reason, train)
    return reason


def _check_not_required(reason: str | None, train: Train) -> None:
    if reason and train.cache_features == "required":
        raise InputError(
            f"train.cache_features: is required, but {reason}; change that, or set it to auto"
        )


def round_features(features: Tensor, name: str) -> np.ndarray:
    """Round the features of a volume to float16.

    Raises:
        InputError: a feature is not finite, or too large for float16.
    """
    rounded: np.ndarray = features.half().cpu().numpy()
    if not np.isfinite(rounded).all():
        raise InputError(
            f"{name}: the encoder's features are not finite, or above 65504, the largest number of "
            "float16; set train.cache_features to never"
        )
    return rounded
