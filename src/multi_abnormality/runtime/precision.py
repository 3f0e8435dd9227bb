"""Numerical precision of training."""

from typing import Literal

import torch

from multi_abnormality.utils.errors import InputError

# Mixed precision: weights, statistics and losses stay float32.
LIGHTNING_PRECISION: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "float32": "32-true",
    "bfloat16": "bf16-mixed",
    "float16": "16-mixed",
}


def resolve_precision(requested: str, device: torch.device) -> str:
    """Resolve train.precision for a device to a key of LIGHTNING_PRECISION.

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
