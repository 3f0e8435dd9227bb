"""Classifier of volumes: windows, slice encoder, pooling over slices, one logit per finding."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from multi_abnormality.models.encoder import SliceEncoder
from multi_abnormality.models.pooling_base import Pooling


class Prediction(NamedTuple):
    logits: Tensor  # (N, F)
    attention: Tensor  # (N, F, Z), weight of each slice for each finding


class Windows(nn.Module):
    """Decodes volumes to HU and applies intensity windows.

    Args:
        code_table: (256,) HU of each 8-bit code.
        windows: (centre, width) in HU, one per channel.
    """

    code_table: Tensor
    low: Tensor
    width: Tensor

    def __init__(self, code_table: Sequence[float], windows: Sequence[tuple[float, float]]) -> None:
        super().__init__()
        low = [centre - width / 2 for centre, width in windows]
        width = [width for _, width in windows]
        self.register_buffer("code_table", torch.tensor(code_table, dtype=torch.float32))
        self.register_buffer("low", torch.tensor(low, dtype=torch.float32)[:, None, None])
        self.register_buffer("width", torch.tensor(width, dtype=torch.float32)[:, None, None])

    def decode(self, volume: Tensor) -> Tensor:
        """Map (N, Z, Y, X) uint8 codes to (N, Z, Y, X) float32 HU."""
        return self.code_table.index_select(0, volume.flatten().int()).view(volume.shape)

    def forward(self, hu: Tensor) -> Tensor:
        """Map (…, Y, X) float32 HU to (…, C, Y, X) in [-1, 1], one channel per window."""
        scaled = (hu.unsqueeze(-3) - self.low).div_(self.width)  # in place: a third of the time
        return scaled.clamp_(0, 1).mul_(2).sub_(1)


class VolumeClassifier(nn.Module):
    """Maps volumes of 8-bit codes to one logit per finding.

    Args:
        windows: conversion of codes to the encoder's channels.
        adjacent: odd number of neighbouring slices that the encoder gets as channels.
        encoder: encoder of slices.
        pooling: pooling of the encoder's features.
    """

    def __init__(
        self, windows: Windows, adjacent: int, encoder: SliceEncoder, pooling: Pooling
    ) -> None:
        super().__init__()
        self.windows = windows
        self.adjacent = adjacent
        self.encoder = encoder
        self.pooling = pooling

    def forward(self, volume: Tensor) -> Tensor:
        """Map (N, Z, Y, X) uint8 codes to (N, F) logits."""
        return self.predict(volume).logits

    def predict(self, volume: Tensor) -> Prediction:
        """Predict logits and attention from (N, Z, Y, X) uint8 codes."""
        return self.classify(self._decode(volume), self.heights(volume))

    def slices(self, volume: Tensor) -> Tensor:
        """Map (N, Z, Y, X) uint8 codes to the encoder's (N * Z, C, Y, X) input."""
        return self._encoder_input(self._decode(volume))

    def classify(self, hu: Tensor, height: Tensor) -> Prediction:
        """Classify all or some slices of each volume.

        Args:
            hu: (N, Z * adjacent, Y, X) float32 HU, each slice with its neighbours.
            height: (N, Z) position of each slice in the volume, from 0 (lowest) to 1 (highest).
        """
        features = self.encoder(self._encoder_input(hu)).unflatten(0, height.shape)
        return self.classify_features(features, height)

    def encode(self, volume: Tensor) -> Tensor:
        """Map (N, Z, Y, X) uint8 codes to the (N, Z, width) features of their slices."""
        features: Tensor = self.encoder(self.slices(volume)).unflatten(0, volume.shape[:2])
        return features

    def classify_features(self, features: Tensor, height: Tensor) -> Prediction:
        """Classify by the (N, Z, width) features of slices at (N, Z) heights; see `classify`."""
        return Prediction(*self.pooling(features, height))

    def _decode(self, volume: Tensor) -> Tensor:
        """Map (N, Z, Y, X) uint8 codes to (N, Z * adjacent, Y, X) HU for `classify`."""
        hu = self.windows.decode(volume)
        if self.adjacent == 1:
            return hu
        depth = hu.shape[1]
        offsets = torch.arange(self.adjacent) - self.adjacent // 2
        indices = torch.arange(depth)[:, None] + offsets
        return hu[:, indices.clamp(0, depth - 1).flatten()]  # edge slices are repeated

    def _encoder_input(self, hu: Tensor) -> Tensor:
        """Map (N, Z * adjacent, Y, X) HU to (N * Z, C, Y, X)."""
        channels: Tensor = self.windows(hu).unflatten(1, (-1, self.adjacent)).flatten(2, 3)
        return channels.flatten(0, 1).contiguous(memory_format=torch.channels_last)

    @staticmethod
    def heights(volume: Tensor) -> Tensor:
        """Return the (N, Z) heights of all slices of (N, Z, …) volumes or features."""
        slices = volume.shape[1]
        height = torch.arange(slices, device=volume.device, dtype=torch.float32)
        return (height / max(slices - 1, 1)).expand(volume.shape[0], -1)
