"""Construction of classifiers from checkpoint metadata."""

from typing import Any

import torch

from multi_abnormality.config.schema import Model, PreprocessSpec, parse_section
from multi_abnormality.data.preprocessing.quantization import code_table
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.models.lora import add_lora, merge_lora


def build_classifier(about: dict[str, Any], pretrained: bool | str = False) -> VolumeClassifier:
    """Build a classifier in channels-last form, with random or pretrained weights.

    Args:
        about: metadata with the keys findings (names), preprocess and model (sections of
            params.yaml).
        pretrained: see SliceEncoder.

    Raises:
        InputError: see SliceEncoder.
    """
    model = parse_section(Model, about["model"])
    recipe = parse_section(PreprocessSpec, about["preprocess"])
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
        attn_layer=model.attn_layer,
        encoder_chunk_size=model.encoder_chunk_size,
        pretrained=pretrained,
    )
    if model.finetune == "lora":
        adapted = model.lora
        add_lora(classifier.encoder.backbone, adapted.rank, adapted.alpha, adapted.targets)
    # Torch's type annotations lack this argument.
    classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return classifier


def build_for_export(about: dict[str, Any]) -> VolumeClassifier:
    """Build an untrained classifier of restore_classifier's structure, to load exported weights."""
    classifier = build_classifier(about)
    merge_lora(classifier.encoder.backbone)
    return classifier.eval()


def restore_classifier(checkpoint: dict[str, Any]) -> VolumeClassifier:
    """Restore a checkpoint's classifier in eval mode, with LoRA merged."""
    classifier = build_classifier(checkpoint["about"])
    prefix = "model."
    weights = {
        name.removeprefix(prefix): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    classifier.load_state_dict(weights)
    merge_lora(classifier.encoder.backbone)
    return classifier.eval()
