"""Numerical precision of training."""

import torch

from multi_abnormality.utils.errors import InputError


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
