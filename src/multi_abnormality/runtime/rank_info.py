"""Rank and world size of this process (one process per device)."""

import os
from dataclasses import dataclass

import torch

from multi_abnormality.config.schema import Machine
from multi_abnormality.utils.errors import InputError

# Environment variables set by torchrun, and by `launcher` for the ranks it starts.
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

GUIDE = "docs/how-to/multi-gpu.md has the commands"


@dataclass(frozen=True)
class RankInfo:
    """Rank of a process."""

    rank: int = 0  # global rank, from 0
    size: int = 1  # world size
    local_rank: int = 0  # rank on this node, from 0
    local_size: int = 1  # number of processes on this node
    # Whether this process is a rank; otherwise it has to launch the ranks.
    is_launched: bool = False

    @property
    def is_one_node(self) -> bool:
        return self.local_size == self.size


def find_rank(machine: Machine, device: torch.device, batch_size: int) -> RankInfo:
    """Find the rank from the variables of torchrun or SLURM, else from `machine.devices`.

    Raises:
        InputError: devices are not available, or the settings contradict each other.
    """
    info = _launched_rank(machine) or _unlaunched(machine, device)
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
    if not (info.is_launched or info.is_one_node):
        raise InputError(
            "machine.nodes: for several nodes, start training on each of them by torchrun or "
            f"srun; {GUIDE}"
        )
    return info


def _launched_rank(machine: Machine) -> RankInfo | None:
    """Rank of this process if torchrun, srun or `launcher` has started it."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        _set_torchrun_variables()
    if any(name not in os.environ for name in NAMES):
        return None
    rank, size, local_rank = (int(os.environ[name]) for name in NAMES[:3])
    requested = size // machine.nodes if machine.devices == "auto" else machine.devices
    started = int(os.environ.get("LOCAL_WORLD_SIZE", requested))  # on this node
    if requested * machine.nodes != size or requested != started:
        raise InputError(
            f"machine.devices x machine.nodes: {machine.devices} x {machine.nodes}, but {size} "
            f"processes were started, {started} on this node; set both to what is started (devices "
            f"may be auto); {GUIDE}"
        )
    return RankInfo(rank, size, local_rank, requested, is_launched=True)


def _set_torchrun_variables() -> None:
    """Set torchrun's variables from srun's, for PyTorch. Each job has a port of its own."""
    from lightning_fabric.plugins.environments import SLURMEnvironment

    node = SLURMEnvironment.resolve_root_node_address(os.environ["SLURM_STEP_NODELIST"])
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": os.environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "GROUP_RANK": os.environ.get("SLURM_NODEID", "0"),
    }
    os.environ.setdefault("MASTER_ADDR", node)
    os.environ.setdefault("MASTER_PORT", str(15000 + int(os.environ["SLURM_JOB_ID"][-4:])))


def _unlaunched(machine: Machine, device: torch.device) -> RankInfo:
    """Rank 0, for the process that launches the ranks or trains alone."""
    on_gpu = device.type == "cuda"
    available = torch.cuda.device_count() if on_gpu else 1
    requested = available if machine.devices == "auto" else machine.devices
    if on_gpu and requested > available:
        raise InputError(
            f"machine.devices: {requested} GPUs are requested, but torch sees {available}; "
            f"set it to {available} or auto"
        )
    size = requested * machine.nodes
    return RankInfo(size=size, local_size=requested, is_launched=size == 1)
