"""A classifier with random weights, in evaluation mode."""

from collections.abc import Sequence

import torch

from multi_abnormality.models.classifier import VolumeClassifier, Windows
from multi_abnormality.models.encoder import SliceEncoder
from multi_abnormality.models.pooling import POOLINGS

CODES = torch.linspace(-1024, 1024, 256).tolist()


def untrained_classifier(
    backbone: str,
    findings: int,
    windows: Sequence[tuple[float, float]],
    adjacent: int = 1,
    pooling: str = "attention",
    dropout: float = 0.0,
    **encoder_options: object,
) -> VolumeClassifier:
    torch.manual_seed(0)
    encoder = SliceEncoder(backbone, len(windows) * adjacent, **encoder_options)
    pool = POOLINGS[pooling](encoder.width, findings, dropout)
    return VolumeClassifier(Windows(CODES, windows), adjacent, encoder, pool).eval()
