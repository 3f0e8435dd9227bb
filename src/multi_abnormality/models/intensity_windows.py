"""Conversion of stored 8-bit codes to HU, and of HU to intensity windows."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
