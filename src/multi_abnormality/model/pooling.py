"""From a scan's slice features to a logit a finding."""

import torch
from torch import Tensor, nn

# Of a slice's feature vector. AdamW moves each weight by about the learning rate, so this decides
# how far a step moves a logit, whatever the backbone's width. Tried on the sample, at 2e-3: with 36
# the loss rose in the first epoch, with 1 the backbone heard too little of it.
LENGTH = 5.0


class QueryPooling(nn.Module):
    """Attention over slices with one learned query a finding.

    Every slice gets a logit a finding, and a scan's logit is their weighted mean. A slice weighs
    more the better its key fits the finding's query, and the more it speaks for the finding
    itself: without that, a finding on two slices of thirty is learned late, as it drowns in the
    mean. The key knows how high the slice lies in the volume, since where a finding can be is
    known: the heart is not in the apices.

    Args:
        width: of a slice's features.
        findings: how many.
        dropout: share of the features dropped in training.
        dim: of keys and queries.
    """

    def __init__(self, width: int, findings: int, dropout: float, dim: int = 128) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.scale = LENGTH * width**-0.5
        self.dropout = nn.Dropout(dropout)
        self.key = nn.Linear(width, dim)
        self.height = nn.Sequential(nn.Linear(1, dim), nn.GELU(), nn.Linear(dim, dim))
        self.query = nn.Parameter(torch.randn(findings, dim) * dim**-0.5)
        self.weight = nn.Parameter(torch.randn(findings, width) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(findings))

    def forward(self, features: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
        """Pool.

        Args:
            features: (N, Z, width)
            height: (N, Z), 0 at the volume's lowest slice to 1 at its highest.

        Returns:
            (N, F) logits and (N, F, Z) weights, each finding's summing to 1.
        """
        features = self.dropout(self.norm(features) * self.scale)
        evidence = self.weight @ features.transpose(1, 2) + self.bias[:, None]
        key = self.key(features) + self.height(height.unsqueeze(-1) * 2 - 1)
        weights = (self.query @ key.transpose(1, 2) + evidence).softmax(dim=-1)
        return (weights * evidence).sum(dim=-1), weights
