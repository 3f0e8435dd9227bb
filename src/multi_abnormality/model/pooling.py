"""From a scan's slice features to one vector a finding."""

import torch
from torch import Tensor, nn


class QueryPooling(nn.Module):
    """Attention over slices with one learned query a finding.

    A slice's key also knows how high it lies in the volume, since where a finding can be is known:
    the heart is not in the apices.

    Args:
        width: of a slice's features.
        findings: how many.
        dim: of keys and queries.
    """

    def __init__(self, width: int, findings: int, dim: int = 128) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.scale = width**-0.5
        self.key = nn.Linear(width, dim)
        self.height = nn.Sequential(nn.Linear(1, dim), nn.GELU(), nn.Linear(dim, dim))
        self.query = nn.Parameter(torch.randn(findings, dim))

    def forward(self, features: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
        """Pool.

        Args:
            features: (N, Z, width)
            height: (N, Z), 0 at the volume's lowest slice to 1 at its highest.

        Returns:
            (N, F, width) pooled features and (N, F, Z) weights, each finding's summing to 1.
        """
        # Unit vectors: an optimizer's step on a weight of theirs then moves a logit by little,
        # however wide the backbone is.
        features = self.norm(features) * self.scale
        key = self.key(features) + self.height(height.unsqueeze(-1) * 2 - 1)
        weights = (self.query @ key.transpose(1, 2) * key.shape[-1] ** -0.5).softmax(dim=-1)
        return weights @ features, weights
