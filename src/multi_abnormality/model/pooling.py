"""From a scan's slice features to a logit a finding.

Each kind gives every slice a logit a finding, its evidence, and the scan their weighted mean; the
kinds differ in the weights. All take (N, Z, width) features and the slices' (N, Z) heights, 0 at
the volume's lowest to 1 at its highest, and give (N, F) logits and (N, F, Z) weights, each
finding's summing to 1.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

# Of a slice's feature vector. AdamW moves each weight by about the learning rate, so this decides
# how far a step moves a logit, whatever the backbone's width. Tried on the sample, at 2e-3: with 36
# the loss rose in the first epoch, with 1 the backbone heard too little of it.
LENGTH = 5.0


class Evidence(nn.Module):
    """(N, Z, width) features to the logit that each slice has for each finding, (N, F, Z).

    Args:
        width: of a slice's features.
        findings: how many.
        dropout: share of the features dropped in training.
    """

    def __init__(self, width: int, findings: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.scale = LENGTH * width**-0.5
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.randn(findings, width) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(findings))

    @property
    def undecayed(self) -> Iterable[nn.Parameter]:
        """What weight decay must leave alone."""
        return ()

    def normalize(self, features: Tensor) -> Tensor:
        dropped: Tensor = self.dropout(self.norm(features) * self.scale)
        return dropped

    def of(self, normalized: Tensor) -> Tensor:
        return self.weight @ normalized.transpose(1, 2) + self.bias[:, None]


class MeanPooling(Evidence):
    """All slices weigh alike."""

    def forward(self, features: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        evidence = self.of(self.normalize(features))
        return evidence.mean(dim=-1), torch.ones_like(evidence) / evidence.shape[-1]


class MaxPooling(Evidence):
    """The slice that speaks most for a finding decides alone."""

    def forward(self, features: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        evidence = self.of(self.normalize(features))
        weights = functional.one_hot(evidence.argmax(dim=-1), evidence.shape[-1])
        return evidence.amax(dim=-1), weights.to(evidence.dtype)


class QueryPooling(Evidence):
    """Attention over slices with one learned query a finding.

    A slice weighs more the better its key fits the finding's query, and the more it speaks for
    the finding itself: without that, a finding on two slices of thirty is learned late, as it
    drowns in the mean. The key knows how high the slice lies in the volume, since where a finding
    can be is known: the heart is not in the apices.

    Args:
        width: of a slice's features.
        findings: how many.
        dropout: share of the features dropped in training.
        dim: of keys and queries.
    """

    def __init__(self, width: int, findings: int, dropout: float, dim: int = 128) -> None:
        super().__init__(width, findings, dropout)
        self.key = nn.Linear(width, dim)
        self.height = _height_embedding(dim)
        self.query = nn.Parameter(torch.randn(findings, dim) * dim**-0.5)

    @property
    def undecayed(self) -> Iterable[nn.Parameter]:
        return (self.query,)

    def forward(self, features: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
        features = self.normalize(features)
        evidence = self.of(features)
        key = self.key(features) + self.height(_centred(height))
        weights = (self.query @ key.transpose(1, 2) + evidence).softmax(dim=-1)
        return (weights * evidence).sum(dim=-1), weights


class TransformerPooling(nn.Module):
    """Slices look at each other first, then attention with a query a finding.

    Args:
        width: of a slice's features.
        findings: how many.
        dropout: share of the features dropped in training.
        dim: of a slice within the transformer.
        layers: of it.
    """

    def __init__(
        self, width: int, findings: int, dropout: float, dim: int = 256, layers: int = 2
    ) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))
        self.height = _height_embedding(dim)
        self.layers = nn.Sequential(*(_Layer(dim, heads=4) for _ in range(layers)))
        self.pooling = QueryPooling(dim, findings, dropout)

    @property
    def undecayed(self) -> Iterable[nn.Parameter]:
        return self.pooling.undecayed

    def forward(self, features: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
        slices = self.project(features) + self.height(_centred(height))
        pooled: tuple[Tensor, Tensor] = self.pooling(self.layers(slices), height)
        return pooled


class _Layer(nn.Module):
    """A transformer layer that normalizes first (Xiong et al. 2020, arXiv:2002.04745).

    torch's own takes another path through fused code outside of training, which ONNX lacks.
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
        """(N, Z, dim) -> (N, Z, dim)"""
        parts = self.queries_keys_values(self.norm(slices)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = functional.scaled_dot_product_attention(q, k, v)
        slices = slices + self.mix(attended.transpose(1, 2).flatten(2))
        thought: Tensor = self.think(slices)
        return slices + thought


POOLINGS = {
    "query": QueryPooling,
    "mean": MeanPooling,
    "max": MaxPooling,
    "transformer": TransformerPooling,
}


def _height_embedding(dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(1, dim), nn.GELU(), nn.Linear(dim, dim))


def _centred(height: Tensor) -> Tensor:
    """(N, Z) in [0, 1] -> (N, Z, 1) in [-1, 1]"""
    return height.unsqueeze(-1) * 2 - 1
