"""What a machine calculates on, and how many processes load for it."""

import os

import torch

from multi_abnormality.errors import InputError
from multi_abnormality.params import Params


def choose_device(accelerator: str) -> torch.device:
    """The device that `machine.accelerator` asks for: a GPU if there is one, for "auto".

    Raises:
        InputError: it asks for a GPU, and there is none.
    """
    there = torch.cuda.is_available()
    if accelerator == "gpu" and not there:
        raise InputError("machine.accelerator: gpu, but torch sees no CUDA GPU; use auto or cpu")
    return torch.device("cuda" if there and accelerator != "cpu" else "cpu")


def loading_workers(params: Params, devices: int = 1) -> int:
    """How many processes load for each device of a machine. By itself one a core, four at most.

    None for a CPU: a volume is read in a thousandth of the time that a step on it takes there, and
    processes beside the step's threads would hold all of them up.
    """
    if params.machine.workers != "auto":
        return params.machine.workers
    if choose_device(params.machine.accelerator).type == "cpu":
        return 0
    return min(max((os.cpu_count() or 1) // devices, 1), 4)
