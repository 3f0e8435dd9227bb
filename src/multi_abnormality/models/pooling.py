"""Pooling of a scan's slice features to one logit per finding.

A pooling is a class registered in POOLINGS. Each computes one logit per slice and finding, and
their weighted mean over the slices; they differ in the weights. All take (N, Z, width) features and
(N, Z) heights of the slices, from 0 (lowest in the volume) to 1 (highest), and return (N, F) logits
and (N, F, Z) weights, which sum to 1 over the slices.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from multi_abnormality.models.pooling_base import Pooling, SliceHead


class MeanPooling(SliceHead):
    """Mean over the slices."""

    description = "the slices' mean"

    def forward(self, features: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        logits = self.slice_logits(self.normalize(features))
        return logits.mean(dim=-1), torch.ones_like(logits) / logits.shape[-1]


class MaxPooling(SliceHead):
    """Maximum over the slices."""

    description = "the slices' maximum"

    def forward(self, features: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        logits = self.slice_logits(self.normalize(features))
        weights = functional.one_hot(logits.argmax(dim=-1), logits.shape[-1])
        return logits.amax(dim=-1), weights.to(logits.dtype)


class AttentionPooling(SliceHead):
    """Attention over slices with one learned query per finding.

    A slice's weight grows with the match of its key and the finding's query, and with its logit:
    without the logit, a finding on two slices of thirty is learned late, since the mean dilutes it.
    The key includes the slice's height in the volume, since findings have typical positions: the
    heart is not in the apices.

    Args:
        width: number of features of a slice.
        findings: number of findings.
        dropout: dropout probability of the features.
        dim: dimension of keys and queries.
    """

    description = "attention over slices, one query per finding"

    def __init__(self, width: int, findings: int, dropout: float, dim: int = 128) -> None:
        super().__init__(width, findings, dropout)
        self.key = nn.Linear(width, dim)
        self.height = _height_embedding(dim)
        self.query = nn.Parameter(torch.randn(findings, dim) * dim**-0.5)

    @property
    def no_weight_decay(self) -> Iterable[nn.Parameter]:
        return (self.query,)

    def forward(self, features: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
        features = self.normalize(features)
        logits = self.slice_logits(features)
        key = self.key(features) + self.height(_centred(height))
        weights = (self.query @ key.transpose(1, 2) + logits).softmax(dim=-1)
        return (weights * logits).sum(dim=-1), weights


class TransformerPooling(Pooling):
    """Self-attention between slices, then AttentionPooling.

    Args:
        width: number of features of a slice.
        findings: number of findings.
        dropout: dropout probability of the features.
        dim: dimension of the transformer.
        layers: number of transformer layers.
    """

    description = "a transformer over slices, then attention with one query per finding"

    def __init__(
        self, width: int, findings: int, dropout: float, dim: int = 256, layers: int = 2
    ) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))
        self.height = _height_embedding(dim)
        self.layers = nn.Sequential(*(_Layer(dim, heads=4) for _ in range(layers)))
        self.pooling = AttentionPooling(dim, findings, dropout)

    @property
    def no_weight_decay(self) -> Iterable[nn.Parameter]:
        return self.pooling.no_weight_decay

    def forward(self, features: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
        slices = self.project(features) + self.height(_centred(height))
        pooled: tuple[Tensor, Tensor] = self.pooling(self.layers(slices), height)
        return pooled


class _Layer(nn.Module):
    """Pre-norm transformer layer (Xiong et al. 2020, arXiv:2002.04745).

    torch.nn.TransformerEncoderLayer uses a fused operator in eval mode, which ONNX lacks.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.queries_keys_values = nn.Linear(dim, 3 * dim)
        self.mix = nn.Linear(dim, dim)
        self.think = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )

    def forward(self, slices: Tensor) -> Tensor:
        """Map (N, Z, dim) to (N, Z, dim)."""
        parts = self.queries_keys_values(self.norm(slices)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = functional.scaled_dot_product_attention(q, k, v)
        slices = slices + self.mix(attended.transpose(1, 2).flatten(2))
        update: Tensor = self.think(slices)
        return slices + update


POOLINGS: dict[str, type[Pooling]] = {  # by model.pooling
    "attention": AttentionPooling,
    "mean": MeanPooling,
    "max": MaxPooling,
    "transformer": TransformerPooling,
}


def _height_embedding(dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(1, dim), nn.GELU(), nn.Linear(dim, dim))


def _centred(height: Tensor) -> Tensor:
    """Map (N, Z) in [0, 1] to (N, Z, 1) in [-1, 1]."""
    return height.unsqueeze(-1) * 2 - 1
