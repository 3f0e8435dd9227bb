"""Which weights learn, and how fast: functions of the epoch alone, so a resume changes nothing.

Lightning's BaseFinetuning keeps a state of its own, and freezes again on resume (PL#21901).
"""

from typing import Any

from timm.models import group_parameters
from torch import nn

from multi_abnormality.console import log
from multi_abnormality.errors import InputError
from multi_abnormality.model.classifier import VolumeClassifier
from multi_abnormality.model.lora import LoraLinear
from multi_abnormality.params import Model, Train


class FineTuning:
    """Holds weights of the backbone still; all others learn from the start.

    Args:
        model: whose weights.
        settings: finetune and unfreeze_epoch count here.
    """

    def __init__(self, model: VolumeClassifier, settings: Model) -> None:
        self.backbone = model.encoder.backbone
        self.kind = settings.finetune
        self.unfreeze_epoch = settings.unfreeze_epoch
        self.stages = []
        if self.kind == "progressive":
            groups = layers_of(self.backbone, settings.backbone, coarse=True)
            self.stages = [names for _, names in sorted(groups.items(), reverse=True)]

    def apply(self, epoch: int) -> None:
        """Set what learns in an epoch. Called before each step: validation undoes a part of it."""
        if self.kind == "full":
            return
        learning = self.learning(epoch)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(name in learning)
        for module in self.backbone.modules():
            weight = getattr(module, "weight", None)
            if hasattr(module, "running_mean") and weight is not None:
                module.train(weight.requires_grad)  # or its statistics would move on

    def learning(self, epoch: int) -> set[str]:
        """The names of the backbone's parameters that learn in an epoch.

        Progressive: none before unfreeze_epoch, then a stage more each epoch, from the top down.
        """
        if self.kind == "full":
            return {name for name, _ in self.backbone.named_parameters()}
        if self.kind == "lora":
            parts = self.backbone.named_modules()
            adapted = [name for name, part in parts if isinstance(part, LoraLinear)]
            return {f"{name}.{thin}" for name in adapted for thin in ("down", "up")}
        stages = self.stages[: max(epoch - self.unfreeze_epoch + 1, 0)]
        return {name for names in stages for name in names}


def check_finetuning(model: Model, train: Train) -> None:
    """Tell of settings that leave the backbone as it is.

    Raises:
        InputError: where that can't be meant.
    """
    if model.finetune != "full" and model.pretrained is False:
        log.warning(
            "model.finetune: %s holds random weights still: model.pretrained is false",
            model.finetune,
        )
    if model.finetune != "progressive":
        return
    if model.unfreeze_epoch >= train.epochs:
        raise InputError(
            f"model.unfreeze_epoch: {model.unfreeze_epoch} is not before train.epochs "
            f"({train.epochs}), so the backbone would never learn; lower it, or choose "
            "model.finetune: frozen"
        )


def layers_of(backbone: nn.Module, name: str, coarse: bool) -> dict[int, list[str]]:
    """The names of a backbone's parameters by layer, or by stage, rising from its input.

    Raises:
        InputError: timm does not know this backbone's layers.
    """
    matcher = getattr(backbone, "group_matcher", None)
    if matcher is None:
        raise InputError(
            f"model.backbone: timm does not tell the layers of {name}, which model.finetune: "
            "progressive and train.layer_decay need; choose others, or another backbone"
        )
    layers: dict[int, list[str]] = group_parameters(backbone, matcher(coarse=coarse))
    return layers


def parameter_groups(
    model: VolumeClassifier, settings: Model, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Every parameter in a group with its weight decay and its share of the learning rate.

    Biases, norms and learned queries do not decay. Each layer of the backbone has layer_decay
    times the rate of the layer above it, and what is above the backbone has all of it.
    """
    depth: dict[str, int] = {}
    if layer_decay < 1:
        layers = layers_of(model.encoder.backbone, settings.backbone, coarse=False)
        for below, (_, names) in enumerate(sorted(layers.items(), reverse=True), start=1):
            depth |= {f"encoder.backbone.{name}": below for name in names}
    undecayed = {id(parameter) for parameter in model.pooling.undecayed}
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and id(parameter) not in undecayed
        groups.setdefault((depth.get(name, 0), decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "share": layer_decay**below,
        }
        for (below, decays), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]
