"""From stored 8-bit codes to the windows that an encoder sees."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Windows(nn.Module):
    """Decodes volumes to HU and shows them through several windows.

    Args:
        code_table: (256,) HU of each 8-bit code.
        windows: (centre, width) in HU, a channel each.
    """

    def __init__(self, code_table: Sequence[float], windows: Sequence[tuple[float, float]]) -> None:
        super().__init__()
        centre, width = torch.tensor(windows, dtype=torch.float32).T
        self.register_buffer("code_table", torch.tensor(code_table, dtype=torch.float32))
        self.register_buffer("low", (centre - width / 2)[:, None, None])
        self.register_buffer("width", width[:, None, None])

    def decode(self, volume: Tensor) -> Tensor:
        """(N, Z, Y, X) uint8 codes -> (N, Z, Y, X) float32 HU"""
        return self.code_table[volume.int()]

    def forward(self, hu: Tensor) -> Tensor:
        """(…, Y, X) float32 HU -> (…, C, Y, X) in [-1, 1], a channel a window"""
        share = (hu.unsqueeze(-3) - self.low) / self.width
        return share.clamp(0, 1) * 2 - 1
