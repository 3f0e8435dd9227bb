"""Which of a training's processes this one is. A process has one device."""

import os
from dataclasses import dataclass

import torch
from lightning.fabric.plugins.environments import SLURMEnvironment

from multi_abnormality.errors import InputError
from multi_abnormality.params_machine import Machine

# What torchrun tells each process that it starts, and process 0 those that it starts.
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

GUIDE = "docs/several-devices.md has the commands"


@dataclass(frozen=True)
class Place:
    """Of a process among all.

    Attributes:
        rank: from 0; process 0 leads.
        size: processes in all.
        local_rank: from 0, on this node.
        local_size: processes on this node.
        address: where process 0 is.
        port: where it is to be met; 0: it takes any.
        is_started: by another program or process, which starts the others as well.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = "127.0.0.1"
    port: int = 0
    is_started: bool = False

    @property
    def is_one_node(self) -> bool:
        return self.local_size == self.size


def find_place(machine: Machine, device: torch.device, batch_size: int) -> Place:
    """From what torchrun or SLURM says, or from `machine.devices` where neither is there.

    Args:
        machine: devices, nodes and strategy count here.
        device: the kind that is trained on.
        batch_size: volumes, which the processes share.

    Raises:
        InputError: what is asked for is not there, or does not go together.
    """
    place = _started(machine) or _starting(machine, device)
    if device.type == "cuda" and place.local_rank >= torch.cuda.device_count():
        raise InputError(
            f"machine.devices: process {place.local_rank} of this node sees "
            f"{torch.cuda.device_count()} GPUs; let each process see all that are used on its node"
        )
    if place.size == 1 and machine.strategy != "auto":
        raise InputError(
            f"machine.strategy: {machine.strategy} takes two devices or more, and there is one; "
            "raise machine.devices, or choose auto"
        )
    if batch_size % place.size:
        raise InputError(
            f"train.batch_size: {batch_size} volumes cannot be split evenly over {place.size} "
            "devices (machine.devices x machine.nodes); choose a multiple, or other devices"
        )
    return place


def _started(machine: Machine) -> Place | None:
    """As one of several processes that are there already."""
    told = _tell_of_slurm() if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 else os.environ
    if any(name not in told for name in NAMES):
        return None
    rank, size, local_rank, port = (int(told[name]) for name in NAMES if name != "MASTER_ADDR")
    wanted = size // machine.nodes if machine.devices == "auto" else machine.devices
    there = int(told.get("LOCAL_WORLD_SIZE", wanted))  # on this node
    if wanted * machine.nodes != size or wanted != there:
        raise InputError(
            f"machine.devices x machine.nodes: {machine.devices} x {machine.nodes}, but {size} "
            f"processes were started, {there} on this node; set both to what is started (devices "
            f"may be auto); {GUIDE}"
        )
    return Place(rank, size, local_rank, wanted, told["MASTER_ADDR"], port, is_started=True)


def _tell_of_slurm() -> dict[str, str]:
    """What srun says, under torchrun's names. Each job has a port of its own."""
    job = os.environ["SLURM_JOB_ID"]
    node = SLURMEnvironment.resolve_root_node_address(os.environ["SLURM_STEP_NODELIST"])
    return {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": os.environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "MASTER_ADDR": os.environ.get("MASTER_ADDR", node),
        "MASTER_PORT": os.environ.get("MASTER_PORT", str(15000 + int(job[-4:]))),
    }


def _starting(machine: Machine, device: torch.device) -> Place:
    """As the process that starts the others, or that is alone."""
    on_gpu = device.type == "cuda"
    there = torch.cuda.device_count() if on_gpu else 1
    wanted = there if machine.devices == "auto" else machine.devices
    if on_gpu and wanted > there:
        raise InputError(
            f"machine.devices: {wanted} GPUs are wanted, and torch sees {there}; "
            f"set it to {there} or auto"
        )
    return Place(size=wanted * machine.nodes, local_size=wanted)
