"""Averages of weights: over the steps of a run, and over its best epochs."""

import copy
from collections.abc import Sequence
from itertools import chain
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

M = TypeVar("M", bound=nn.Module)


class WeightAverage(Generic[M]):
    """Exponential moving average (EMA) of a module's parameters and buffers, after every step.

    Equals torch's AveragedModel, which waits for the device twice per update; this does not.

    Args:
        module: module to average; later only its values may change, not its tensors.
        decay: decay of the average per step; 0: the average is the module itself.
        constant: part of the module whose values never change.

    Attributes:
        module: copy of the module with the averaged values, in eval mode.
    """

    def __init__(self, module: M, decay: float, constant: nn.Module | None = None) -> None:
        self.module = copy.deepcopy(module).eval()
        self._update = get_ema_multi_avg_fn(decay)
        self._pairs: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        left_out = {id(tensor) for tensor in _tensors(constant)} if constant else set()
        for average, current in zip(_tensors(self.module), _tensors(module), strict=True):
            if id(current) in left_out:
                continue
            averages, currents = self._pairs.setdefault(average.dtype, ([], []))
            averages.append(average.detach())
            currents.append(current.detach())

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Update the average after optimizer step number `steps`; the first one is copied."""
        for averages, currents in self._pairs.values():
            if steps == 1:
                torch._foreach_copy_(averages, currents)
            else:
                self._update(averages, currents, steps)


def mean_state(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of state dicts; tensors of integers are those of the first one.

    It is computed in float64, so that the mean of equal values is exactly that value.
    """

    def mean(tensors: list[Tensor]) -> Tensor:
        first, *others = tensors
        if not first.is_floating_point():
            return first
        return (sum((each.double() for each in others), first.double()) / len(tensors)).to(first)

    return {name: mean([state[name] for state in states]) for name in states[0]}


def _tensors(module: nn.Module) -> list[Tensor]:
    return list(chain(module.parameters(), module.buffers()))
