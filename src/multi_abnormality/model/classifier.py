"""The classifier: windows, slice encoder, attention over slices, a logit a finding."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from multi_abnormality.model.encoder import SliceEncoder
from multi_abnormality.model.pooling import POOLINGS
from multi_abnormality.model.windows import Windows


class Prediction(NamedTuple):
    logits: Tensor  # (N, F)
    attention: Tensor  # (N, F, Z): how much each slice counts for each finding


class VolumeClassifier(nn.Module):
    """Volumes of 8-bit codes to a logit a finding.

    Args:
        backbone: a timm model's name.
        findings: how many.
        windows: (centre, width) in HU.
        code_table: (256,) HU of each 8-bit code.
        adjacent: slices that the encoder sees at once, as channels: one, or it and its neighbours.
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
        adjacent: int = 1,
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
        self.adjacent = adjacent
        self.encoder = SliceEncoder(
            backbone,
            len(windows) * adjacent,
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
        return self.predict(volume).logits

    def predict(self, volume: Tensor) -> Prediction:
        """Of (N, Z, Y, X) uint8 codes."""
        return self.classify(self._decode(volume), self.heights(volume))

    def slices(self, volume: Tensor) -> Tensor:
        """(N, Z, Y, X) uint8 codes -> (N * Z, C, Y, X), what the encoder sees of them"""
        return self._show(self._decode(volume))

    def classify(self, hu: Tensor, height: Tensor) -> Prediction:
        """Classify from HU, of all slices or of some.

        Args:
            hu: (N, Z * adjacent, Y, X) float32, each slice amid its neighbours
            height: (N, Z), where in the volume each slice lies: 0 the lowest, 1 the highest.
        """
        features = self.encoder(self._show(hu)).unflatten(0, height.shape)
        return Prediction(*self.pooling(features, height))

    def _decode(self, volume: Tensor) -> Tensor:
        """(N, Z, Y, X) uint8 codes -> (N, Z * adjacent, Y, X) HU, as classify takes it"""
        hu = self.windows.decode(volume)
        if self.adjacent == 1:
            return hu
        depth = hu.shape[1]
        beside = torch.arange(self.adjacent) - self.adjacent // 2
        places = torch.arange(depth)[:, None] + beside
        return hu[:, places.clamp(0, depth - 1).flatten()]  # at the ends, the last repeats

    def _show(self, hu: Tensor) -> Tensor:
        """(N, Z * adjacent, Y, X) HU -> (N * Z, C, Y, X)"""
        shown: Tensor = self.windows(hu).unflatten(1, (-1, self.adjacent)).flatten(2, 3)
        return shown.flatten(0, 1).contiguous(memory_format=torch.channels_last)

    @staticmethod
    def heights(volume: Tensor) -> Tensor:
        """(N, Z) heights of all the slices of (N, Z, Y, X) volumes"""
        slices = volume.shape[1]
        height = torch.arange(slices, device=volume.device, dtype=torch.float32)
        return (height / max(slices - 1, 1)).expand(volume.shape[0], -1)
