"""Choice of the device, and of the number of data loader workers."""

import os

import torch

from multi_abnormality.config.schema import Params
from multi_abnormality.utils.errors import InputError


def choose_device(accelerator: str) -> torch.device:
    """Return the device for `machine.accelerator`; "auto" uses a GPU if one is available.

    Raises:
        InputError: a GPU is requested but not available.
    """
    available = torch.cuda.is_available()
    if accelerator == "gpu" and not available:
        raise InputError("machine.accelerator: gpu, but torch sees no CUDA GPU; use auto or cpu")
    return torch.device("cuda" if available and accelerator != "cpu" else "cpu")


def num_loader_workers(params: Params, devices: int = 1) -> int:
    """Return the number of data loader workers per device; "auto" is one per core, at most four.

    On a CPU "auto" is 0: reading a volume takes a thousandth of the time of a step on it, and
    workers would compete with the step's threads for the cores.
    """
    if params.machine.workers != "auto":
        return params.machine.workers
    if choose_device(params.machine.accelerator).type == "cpu":
        return 0
    return min(max((os.cpu_count() or 1) // devices, 1), 4)
