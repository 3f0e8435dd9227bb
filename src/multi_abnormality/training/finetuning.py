"""Fine-tuning: trainable parameters and learning rates, as functions of the epoch alone.

Lightning's BaseFinetuning has state of its own, and freezes again on resume (PL#21901).
"""

from typing import Any

from timm.models import group_parameters
from torch import nn

from multi_abnormality.config.schema import Model, Train
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.models.lora import LoraLinear
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError


class FineTuning:
    """Freezes backbone parameters; everything else is trainable from the start."""

    def __init__(self, model: VolumeClassifier, settings: Model) -> None:
        self.backbone = model.encoder.backbone
        self.kind = settings.finetune
        self.unfreeze_epoch = settings.unfreeze_epoch
        self.stages = []
        if self.kind == "progressive":
            groups = layers_of(self.backbone, settings.backbone, coarse=True)
            self.stages = [names for _, names in sorted(groups.items(), reverse=True)]

    def apply(self, epoch: int) -> None:
        """Freeze and unfreeze for an epoch. Call before each step: validation resets train mode."""
        if self.kind == "full":
            return
        trainable = self.trainable_parameter_names(epoch)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(name in trainable)
        for module in self.backbone.modules():
            weight = getattr(module, "weight", None)
            if hasattr(module, "running_mean") and weight is not None:
                module.train(weight.requires_grad)  # frozen norms keep their running statistics

    def trainable_parameter_names(self, epoch: int) -> set[str]:
        """Return the names of the backbone's trainable parameters in an epoch.

        Progressive: none before unfreeze_epoch, then one more stage per epoch, from the top down.
        """
        if self.kind == "full":
            return {name for name, _ in self.backbone.named_parameters()}
        if self.kind == "lora":
            parts = self.backbone.named_modules()
            adapted = [name for name, part in parts if isinstance(part, LoraLinear)]
            return {f"{name}.{factor}" for name in adapted for factor in ("down", "up")}
        stages = self.stages[: max(epoch - self.unfreeze_epoch + 1, 0)]
        return {name for names in stages for name in names}


def check_finetuning(model: Model, train: Train) -> None:
    """Warn of a frozen backbone with random weights.

    Raises:
        InputError: the backbone would never be unfrozen.
    """
    if model.finetune != "full" and model.pretrained is False:
        log.warning(
            "model.finetune: %s freezes random weights: model.pretrained is false", model.finetune
        )
    if model.finetune == "progressive" and model.unfreeze_epoch >= train.epochs:
        raise InputError(
            f"model.unfreeze_epoch: {model.unfreeze_epoch} is not before train.epochs "
            f"({train.epochs}), so the backbone would never be trained; lower it, or choose "
            "model.finetune: frozen"
        )


def layers_of(backbone: nn.Module, name: str, coarse: bool) -> dict[int, list[str]]:
    """Return the names of a backbone's parameters by layer, or by stage, counted from its input.

    Raises:
        InputError: timm does not define this backbone's layers.
    """
    matcher = getattr(backbone, "group_matcher", None)
    if matcher is None:
        raise InputError(
            f"model.backbone: timm does not define the layers of {name}, which model.finetune: "
            "progressive and train.layer_decay need; choose others, or another backbone"
        )
    layers: dict[int, list[str]] = group_parameters(backbone, matcher(coarse=coarse))
    return layers


def parameter_groups(
    model: VolumeClassifier, settings: Model, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Group all parameters by weight decay and by their factor of the learning rate.

    Biases, norms and learned queries have no weight decay. Each layer of the backbone has
    layer_decay times the learning rate of the layer above it; the head has the full rate.
    """
    depth: dict[str, int] = {}
    if layer_decay < 1:
        layers = layers_of(model.encoder.backbone, settings.backbone, coarse=False)
        for below, (_, names) in enumerate(sorted(layers.items(), reverse=True), start=1):
            depth |= {f"encoder.backbone.{name}": below for name in names}
    no_weight_decay = {id(parameter) for parameter in model.pooling.no_weight_decay}
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and id(parameter) not in no_weight_decay
        groups.setdefault((depth.get(name, 0), decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "lr_scale": layer_decay**below,
        }
        for (below, decays), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]
