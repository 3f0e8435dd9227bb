"""Rank, world size and rendezvous address of this process (one process per device)."""

import os
from dataclasses import dataclass

import multi_abnormality.utils.torchvision_compat  # noqa: F401  # isort: skip
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment

from multi_abnormality.config.schema import Machine
from multi_abnormality.utils.errors import InputError

# Environment variables set by torchrun, and by rank 0 for the ranks it spawns.
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

GUIDE = "docs/how-to/multi-gpu.md has the commands"


@dataclass(frozen=True)
class RankInfo:
    """Rank of a process and how to reach rank 0.

    Attributes:
        rank: global rank, from 0.
        size: world size.
        local_rank: rank on this node, from 0.
        local_size: number of processes on this node.
        address: address of rank 0.
        port: rendezvous port of rank 0; 0 for any free port.
        is_started: whether a launcher or rank 0 starts all ranks.
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


def find_rank(machine: Machine, device: torch.device, batch_size: int) -> RankInfo:
    """Find the rank from the variables of torchrun or SLURM, else from `machine.devices`.

    Args:
        machine: section `machine` of the parameters: devices, nodes and strategy.
        device: kind of device to train on.
        batch_size: volumes per batch over all ranks.

    Raises:
        InputError: devices are not available, or the settings contradict each other.
    """
    info = _rank_of_launcher(machine) or _rank_of_parent(machine, device)
    if device.type == "cuda" and info.local_rank >= torch.cuda.device_count():
        raise InputError(
            f"machine.devices: local rank {info.local_rank} sees {torch.cuda.device_count()} GPUs; "
            "let each process see all GPUs that are used on its node"
        )
    if info.size == 1 and machine.strategy != "auto":
        raise InputError(
            f"machine.strategy: {machine.strategy} requires at least two devices, but there is "
            "one; raise machine.devices, or choose auto"
        )
    if batch_size % info.size:
        raise InputError(
            f"train.batch_size: {batch_size} volumes cannot be split evenly over {info.size} "
            "devices (machine.devices x machine.nodes); choose a multiple, or other devices"
        )
    return info


def _rank_of_launcher(machine: Machine) -> RankInfo | None:
    """Rank of this process if torchrun, srun or rank 0 has started it."""
    env = _slurm_env() if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 else os.environ
    if any(name not in env for name in NAMES):
        return None
    rank, size, local_rank, port = (int(env[name]) for name in NAMES if name != "MASTER_ADDR")
    requested = size // machine.nodes if machine.devices == "auto" else machine.devices
    started = int(env.get("LOCAL_WORLD_SIZE", requested))  # on this node
    if requested * machine.nodes != size or requested != started:
        raise InputError(
            f"machine.devices x machine.nodes: {machine.devices} x {machine.nodes}, but {size} "
            f"processes were started, {started} on this node; set both to what is started (devices "
            f"may be auto); {GUIDE}"
        )
    return RankInfo(rank, size, local_rank, requested, env["MASTER_ADDR"], port, is_started=True)


def _slurm_env() -> dict[str, str]:
    """Map srun's variables to torchrun's names. Each job has a port of its own."""
    job = os.environ["SLURM_JOB_ID"]
    node = SLURMEnvironment.resolve_root_node_address(os.environ["SLURM_STEP_NODELIST"])
    return {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": os.environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "MASTER_ADDR": os.environ.get("MASTER_ADDR", node),
        "MASTER_PORT": os.environ.get("MASTER_PORT", str(15000 + int(job[-4:]))),
    }


def _rank_of_parent(machine: Machine, device: torch.device) -> RankInfo:
    """Rank 0, for the process that starts the others or trains alone."""
    on_gpu = device.type == "cuda"
    available = torch.cuda.device_count() if on_gpu else 1
    requested = available if machine.devices == "auto" else machine.devices
    if on_gpu and requested > available:
        raise InputError(
            f"machine.devices: {requested} GPUs are requested, but torch sees {available}; "
            f"set it to {available} or auto"
        )
    return RankInfo(size=requested * machine.nodes, local_size=requested)
