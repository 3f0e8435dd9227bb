"""Fabric for a run: device, numerical precision, strategy and determinism."""

import logging
import os
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy

from multi_abnormality.config.schema import Train
from multi_abnormality.runtime.process_group import ProcessGroup
from multi_abnormality.utils.errors import InputError

# NCCL's in-switch sums differ between calls (nccl#1497), and others with the choice of algorithm.
DETERMINISTIC_NCCL = {
    "NCCL_NVLS_ENABLE": "0",
    "NCCL_ALGO": "Ring",
    "NCCL_PROTO": "Simple",
    "NCCL_MIN_NCHANNELS": "8",
    "NCCL_MAX_NCHANNELS": "8",
}


def resolve_precision(requested: str, device: torch.device) -> str:
    """Resolve train.precision for a device to float32, bfloat16 or float16.

    "auto" is bfloat16 on GPUs that support it (Ampere and later), float16 with loss scaling on
    older ones such as Colab's T4, and float32 on a CPU.

    Raises:
        InputError: the device does not support the requested precision.
    """
    on_gpu = device.type == "cuda"
    has_bfloat16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if requested == "auto":
        return ("bfloat16" if has_bfloat16 else "float16") if on_gpu else "float32"
    if requested == "float16" and not on_gpu:
        raise InputError("train.precision: float16 takes a GPU; choose auto, float32 or bfloat16")
    if requested == "bfloat16" and on_gpu and not has_bfloat16:
        raise InputError("train.precision: this GPU has no bfloat16; choose auto or float16")
    return requested


class Autocast(MixedPrecision):
    """Mixed precision: weights, statistics and losses stay float32.

    Fabric's own casts float inputs (1023 HU becomes 1024), and refuses to clip the gradients of
    fused optimizers.
    """

    def convert_input(self, data: Any) -> Any:
        return data

    def unscale_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)


def make_fabric(
    settings: Train, device: torch.device, precision: str, ranks: ProcessGroup
) -> Fabric:
    """Return a launched Fabric; with several ranks, their process group exists already."""
    torch.use_deterministic_algorithms(settings.deterministic)
    # Deterministic algorithms do not need it, and filling new memory takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        if ranks.size > 1 and device.type == "cuda":
            set_deterministic_nccl()
    # Fabric has set a level of its own.
    logging.getLogger("lightning_fabric").setLevel(logging.getLogger().level)
    plugins: list[Any] = []
    if precision == "bfloat16":
        plugins.append(Autocast("bf16-mixed", device.type))
    elif precision == "float16":
        plugins.append(Autocast("16-mixed", device.type))
    # Set explicitly, or Fabric would detect SLURM and other launchers by itself.
    plugins.append(TorchElasticEnvironment() if ranks.size > 1 else LightningEnvironment())
    # Without `find_unused_parameters` PyTorch's reducer rebuilds its buckets after the first step,
    # which from three ranks on changes the sums after a resume. Statistics of batch normalization
    # are averaged by the training step.
    ddp = DDPStrategy(find_unused_parameters=True, forward_sync_buffers=False)
    fabric = Fabric(
        accelerator=device.type,
        devices=ranks.local_size,
        num_nodes=ranks.size // ranks.local_size,
        strategy=ddp if ranks.size > 1 else "auto",
        plugins=plugins,
    )
    fabric.launch()
    return fabric


def set_deterministic_nccl() -> None:
    """Set the variables that make NCCL's sums repeatable; call before its first operation."""
    for name, value in DETERMINISTIC_NCCL.items():
        if os.environ.setdefault(name, value) != value:
            raise InputError(
                f"{name}={os.environ[name]}: train.deterministic needs {value}; unset the "
                "variable, or set train.deterministic to false"
            )
