"""Base classes of the poolings, and the logits of each slice."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Norm of a slice's feature vector. AdamW moves each weight by about the learning rate, so the norm
# determines how far a step moves a logit, for any width of the backbone. Tried on the sample, at
# 2e-3: with 36 the loss rose in the first epoch, with 1 the gradient to the backbone was too small.
FEATURE_NORM = 5.0


class Pooling(nn.Module):
    """Maps slice features to logits; the arguments are those of SliceHead."""

    description: str  # for model_info.json

    @property
    def no_weight_decay(self) -> Iterable[nn.Parameter]:
        """Parameters that weight decay does not apply to."""
        return ()


class SliceHead(Pooling):
    """Maps (N, Z, width) slice features to (N, F, Z) logits per finding and slice.

    Args:
        width: number of features of a slice.
        findings: number of findings.
        dropout: dropout probability of the features.
    """

    def __init__(self, width: int, findings: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.scale = FEATURE_NORM * width**-0.5
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.randn(findings, width) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(findings))

    def normalize(self, features: Tensor) -> Tensor:
        dropped: Tensor = self.dropout(self.norm(features) * self.scale)
        return dropped

    def slice_logits(self, normalized: Tensor) -> Tensor:
        return self.weight @ normalized.transpose(1, 2) + self.bias[:, None]
