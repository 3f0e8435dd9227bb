"""A classifier from what a checkpoint says about it."""

from typing import Any

import torch

from multi_abnormality.data.codes import code_table
from multi_abnormality.model.classifier import VolumeClassifier
from multi_abnormality.model.lora import add_lora, merge_lora
from multi_abnormality.params import Model, parse_section
from multi_abnormality.params_preprocess import Recipe


def build(about: dict[str, Any], pretrained: bool | str = False) -> VolumeClassifier:
    """Build a classifier in channels-last form, with random or pretrained weights.

    Args:
        about: with the keys findings (names), preprocess and model (sections of params.yaml).
        pretrained: see SliceEncoder.

    Raises:
        InputError: see SliceEncoder.
    """
    model = parse_section(Model, about["model"])
    recipe = parse_section(Recipe, about["preprocess"])
    classifier = VolumeClassifier(
        backbone=model.backbone,
        findings=len(about["findings"]),
        windows=model.windows,
        code_table=code_table(recipe).tolist(),
        adjacent=model.adjacent_slices,
        size=recipe.shape[1:],
        pooling=model.pooling,
        dropout=model.dropout,
        global_pool=model.global_pool,
        multiscale=model.multiscale,
        attention=model.attention,
        slice_chunk=model.slice_chunk,
        pretrained=pretrained,
    )
    if model.finetune == "lora":
        adapted = model.lora
        add_lora(classifier.encoder.backbone, adapted.rank, adapted.alpha, adapted.targets)
    # Torch's own types lack this argument.
    classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return classifier


def build_plain(about: dict[str, Any]) -> VolumeClassifier:
    """One as `restore` gives it, with random weights: for weights that were exported."""
    classifier = build(about)
    merge_lora(classifier.encoder.backbone)
    return classifier.eval()


def restore(checkpoint: dict[str, Any]) -> VolumeClassifier:
    """The classifier that a checkpoint holds, ready to predict; adapted layers are plain again."""
    classifier = build(checkpoint["about"])
    prefix = "model."
    weights = {
        name.removeprefix(prefix): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    classifier.load_state_dict(weights)
    merge_lora(classifier.encoder.backbone)
    return classifier.eval()
