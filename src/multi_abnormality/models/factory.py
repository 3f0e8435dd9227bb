"""Construction of classifiers from checkpoint metadata."""

from pathlib import Path
from typing import Any

import torch

from multi_abnormality.config.schema import Model, PreprocessSpec, parse_section
from multi_abnormality.data.preprocessing.quantization import code_table
from multi_abnormality.models.classifier import VolumeClassifier, Windows
from multi_abnormality.models.encoder import SliceEncoder
from multi_abnormality.models.lora import add_lora, merge_lora
from multi_abnormality.models.pooling import POOLINGS
from multi_abnormality.models.pretrained_cfg import PretrainedCfg


def build_classifier(metadata: dict[str, Any], weights: Path | None = None) -> VolumeClassifier:
    """Build a classifier in channels-last form, with random or pretrained weights.

    Args:
        metadata: metadata of a checkpoint: findings (names), preprocess and model (sections of
            params.yaml), and pretrained_cfg if the backbone has pretrained weights.
        weights: see SliceEncoder.

    Raises:
        InputError: see SliceEncoder.
    """
    model = parse_section(Model, metadata["model"])
    recipe = parse_section(PreprocessSpec, metadata["preprocess"])
    pretrained_cfg = PretrainedCfg.from_dict(metadata.get("pretrained_cfg"))
    encoder = SliceEncoder(
        pretrained_cfg.architecture if pretrained_cfg else model.backbone,
        len(model.windows) * model.adjacent_slices,
        recipe.shape[1:],
        model.global_pool,
        model.multiscale,
        model.attn_layer,
        model.encoder_chunk_size,
        pretrained_cfg,
        weights,
    )
    pooling = POOLINGS[model.pooling](encoder.width, len(metadata["findings"]), model.dropout)
    windows = Windows(code_table(recipe).tolist(), model.windows)
    classifier = VolumeClassifier(windows, model.adjacent_slices, encoder, pooling)
    if model.finetune == "lora":
        adapted = model.lora
        add_lora(classifier.encoder.backbone, adapted.rank, adapted.alpha, adapted.targets)
    # Torch's type annotations lack this argument.
    classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return classifier


def build_for_export(metadata: dict[str, Any]) -> VolumeClassifier:
    """Build an untrained classifier of restore_classifier's structure, to load exported weights."""
    classifier = build_classifier(metadata)
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
