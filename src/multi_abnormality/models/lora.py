"""Low-rank adaptation of a frozen backbone (Hu et al. 2021, arXiv:2106.09685)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from multi_abnormality.utils.errors import InputError


class LoraLinear(nn.Module):
    """Linear layer plus a low-rank update, which is zero at the start.

    Args:
        base: the layer to adapt.
        rank: rank of the update.
        alpha: the update is scaled by alpha / rank.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(rank, base.in_features) * base.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = alpha / rank

    def forward(self, features: Tensor) -> Tensor:
        low = functional.linear(functional.linear(features, self.down), self.up)
        base: Tensor = self.base(features)
        return base + self.scale * low

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return an equivalent plain layer."""
        self.base.weight += self.scale * (self.up @ self.down)
        return self.base


def add_lora(network: nn.Module, rank: int, alpha: float, targets: Sequence[str]) -> None:
    """Adapt the linear layers whose names end in one of the targets, such as "qkv".

    Raises:
        InputError: a target matches no layer.
    """
    linear = {name: part for name, part in network.named_modules() if isinstance(part, nn.Linear)}
    adapted: dict[str, nn.Linear] = {}
    for target in targets:
        matches = {name: linear[name] for name in linear if f".{name}".endswith(f".{target}")}
        if not matches:
            known = sorted({name.rpartition(".")[2] for name in linear}) or ["none"]
            raise InputError(
                f"model.lora.targets: {target!r} matches no linear layer of the backbone; "
                f"available: {', '.join(known)}"
            )
        adapted |= matches
    for name, part in adapted.items():
        _replace(network, name, LoraLinear(part, rank, alpha))


def merge_lora(network: nn.Module) -> None:
    """Merge each low-rank update into its layer."""
    for name, part in list(network.named_modules()):
        if isinstance(part, LoraLinear):
            _replace(network, name, part.merged())


def _replace(network: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, part)
