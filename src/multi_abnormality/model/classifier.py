"""The classifier: windows, slice encoder, attention over slices, a logit a finding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multi_abnormality.model.encoder import SliceEncoder
from multi_abnormality.model.pooling import POOLINGS
from multi_abnormality.model.windows import Windows


@dataclass(frozen=True)
class Prediction:
    logits: Tensor  # (N, F)
    attention: Tensor  # (N, F, Z): how much each slice counts for each finding


class VolumeClassifier(nn.Module):
    """Volumes of 8-bit codes to a logit a finding.

    Args:
        backbone: a timm model's name.
        findings: how many.
        windows: (centre, width) in HU.
        code_table: (256,) HU of each 8-bit code.
        size: see SliceEncoder, as are global_pool, multiscale, attention, slice_chunk and
            pretrained.
        pooling: one of POOLINGS.
        dropout: share of the slice features dropped in training.
    """

    def __init__(
        self,
        backbone: str,
        findings: int,
        windows: Sequence[tuple[float, float]],
        code_table: Sequence[float],
        size: tuple[int, int] | None = None,
        pooling: str = "query",
        dropout: float = 0.0,
        global_pool: str | None = None,
        multiscale: bool = False,
        attention: str = "none",
        slice_chunk: int | None = None,
        pretrained: bool | str = False,
    ) -> None:
        super().__init__()
        self.windows = Windows(code_table, windows)
        self.encoder = SliceEncoder(
            backbone,
            len(windows),
            size,
            global_pool,
            multiscale,
            attention,
            slice_chunk,
            pretrained,
        )
        self.pooling = POOLINGS[pooling](self.encoder.width, findings, dropout)

    def forward(self, volume: Tensor) -> Tensor:
        """(N, Z, Y, X) uint8 codes, every slice of the volumes -> (N, F) logits"""
        return self.classify(self.windows.decode(volume), self.heights(volume)).logits

    def classify(self, hu: Tensor, height: Tensor) -> Prediction:
        """Classify from HU, of all slices or of some.

        Args:
            hu: (N, Z, Y, X) float32
            height: (N, Z), where in the volume each slice lies: 0 the lowest, 1 the highest.
        """
        slices = self.windows(hu).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        features = self.encoder(slices).unflatten(0, hu.shape[:2])
        return Prediction(*self.pooling(features, height))

    @staticmethod
    def heights(volume: Tensor) -> Tensor:
        """(N, Z) heights of all the slices of (N, Z, Y, X) volumes"""
        slices = volume.shape[1]
        height = torch.arange(slices, device=volume.device, dtype=torch.float32)
        return (height / max(slices - 1, 1)).expand(volume.shape[0], -1)
