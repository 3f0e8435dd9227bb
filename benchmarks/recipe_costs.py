"""Cost of the recipes: parameters, multiply-adds of a slice, memory of a training step.

    PYTHONPATH=benchmarks python benchmarks/recipe_costs.py

Everything is computed from the shapes and types of tensors, without a GPU and without their data.
"""

import sys
import weakref
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from loops.memory import build, step
from multi_abnormality.config.schema import Params, parse_params
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.tools.recipe import PARAMS, merge_recipe, recipe_names
from multi_abnormality.utils import console

GIB = 1 << 30
FAKE = FakeTensorMode(allow_non_fake_inputs=True)
PRECISION = "bfloat16"  # as many bytes as float16


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that exist at a time.

    Attributes:
        peak: the most bytes so far.
    """

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        super().__init__()
        self.peak = self._live = 0
        self._known: set[int] = set()
        self._add(tensors)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        self._add([leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)])
        return result

    def _add(self, tensors: list[torch.Tensor]) -> None:
        for storage in (tensor.untyped_storage() for tensor in tensors):
            if id(storage) not in self._known:
                self._known.add(id(storage))
                self._live += storage.nbytes()
                weakref.finalize(storage, self._free, id(storage), storage.nbytes())
        self.peak = max(self.peak, self._live)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


def multiply_adds(params: Params) -> float:
    """Count the multiply-adds of one slice."""
    slices = params.train.slices_per_volume
    model = build(params)
    with FAKE, FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, slices, *params.preprocess.shape[1:], dtype=torch.uint8))
    return counter.get_total_flops() / 2 / slices


def peak_memory(params: Params, precision: str, slices: int, volumes: int) -> int:
    """Compute the bytes of all tensors at the peak of one training step.

    Neither the memory of CUDA itself and of its libraries' workspaces nor that of gaps between
    tensors is included.
    """
    model = to_fake(build(params))
    live = LiveBytes([*model.parameters(), *model.buffers()])
    with FAKE, live:
        step(model, params, slices, torch.device("cpu"), precision, volumes)
    return live.peak


def to_fake(model: VolumeClassifier) -> VolumeClassifier:
    """Replace a model's parameters and buffers by tensors without data."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with FAKE:
        return model._apply(FAKE.from_tensor)


def main() -> None:
    table = Table("recipe", "slices per step", "parameters", "trainable", "multiply-adds", "peak")
    for name in recipe_names():
        params = parse_params(merge_recipe(name).text, PARAMS)
        slices, volumes = params.train.slices_per_volume, params.train.batch_size
        parts = [(part.numel(), part.requires_grad) for part in build(params).parameters()]
        table.add_row(
            name,
            str(volumes * slices),
            f"{sum(size for size, _ in parts) / 1e6:.1f} M",
            f"{sum(size for size, trains in parts if trains) / 1e6:.1f} M",
            f"{multiply_adds(params) / 1e9:.2f} G",
            f"{peak_memory(params, PRECISION, slices, volumes) / GIB:.1f} GiB",
        )
    Console(file=sys.stdout, width=120).print(table)


if __name__ == "__main__":
    console.run(main)
