"""Process group of a run: which rank this process is, how the ranks meet, and what they decide.

One process trains on one device. Tensors of the model are averaged by DDP; only decisions, losses
and predictions are exchanged here, over gloo and so without waiting for a GPU's queue.
"""

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

import torch
from torch import Tensor, distributed
from torch.distributed import TCPStore

from multi_abnormality.config.schema import Machine
from multi_abnormality.runtime.graceful_stop import ignore_signals
from multi_abnormality.utils.collectives import gather
from multi_abnormality.utils.errors import InputError, plural

# Environment variables set by torchrun, and by `launcher` for the ranks it starts.
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
RENDEZVOUS = "MULTI_ABNORMALITY_RENDEZVOUS"  # variable with a file:// URL, set by `launcher`
TIMEOUT = timedelta(minutes=30)  # of an operation; others wait while rank 0 saves and uploads
GUIDE = "docs/how-to/multi-gpu.md has the commands"
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ProcessGroup:
    """Process group of a run, as seen by one rank. With a single process, methods are no-ops."""

    rank: int = 0  # global rank, from 0
    size: int = 1  # world size
    local_rank: int = 0  # rank on this node, from 0
    local_size: int = 1  # number of processes on this node
    # Whether this process is a rank; otherwise it has to launch the ranks.
    is_launched: bool = False

    @property
    def is_one_node(self) -> bool:
        return self.local_size == self.size

    @property
    def is_rank_zero(self) -> bool:
        """Whether this rank is 0, the only one that writes files."""
        return self.rank == 0

    def device(self, kind: torch.device) -> torch.device:
        """Return this rank's device of a kind of which a machine has several."""
        if self.size == 1 or kind.type == "cpu":
            return kind
        return torch.device(kind.type, self.local_rank)

    def join(self, device: torch.device) -> None:
        """Wait for all ranks. A program that joins them has to run in `run_rank`."""
        if self.size == 1:
            return
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(torch.get_num_threads() // self.local_size, 1))
        try:
            self._init(device.type == "cuda")
        except (distributed.DistError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"rank {self.rank} cannot join the other ranks: {reason}") from error

    def _init(self, on_gpu: bool) -> None:
        if self.is_one_node and sys.platform == "linux":
            # By default both listen on the network, and a VPN's address may not be reachable.
            for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                os.environ.setdefault(name, "lo")
        backend = "gloo"
        if on_gpu:
            torch.cuda.set_device(self.local_rank)
            backend = "cpu:gloo,cuda:nccl"
        # torchrun's agent serves the store itself.
        is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        if RENDEZVOUS in os.environ:
            distributed.init_process_group(
                backend, os.environ[RENDEZVOUS], TIMEOUT, self.size, self.rank
            )
        elif self.is_one_node and not is_agents:
            store = _loopback_store(self.rank, self.size)
            distributed.init_process_group(backend, None, TIMEOUT, self.size, self.rank, store)
        else:
            distributed.init_process_group(backend, "env://", TIMEOUT)

    def agree(self, reason: str | None, is_due: bool) -> tuple[str | None, bool]:
        """Return the reason of the lowest rank that has one, and whether any rank is due.

        All ranks must call this at the same point.
        """
        if self.size == 1:
            return reason, is_due
        flags = torch.tensor([reason is not None, is_due], dtype=torch.uint8)
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        has_reason, any_due = map(bool, flags.tolist())
        if has_reason:
            reason = next(each for each in gather(reason) if each is not None)
        return reason, any_due

    def wait_for_rank_zero(self, seconds: float) -> bool:
        """Wait for rank 0 to exit first; some launchers end every rank as soon as one exits.

        Returns:
            Whether it exited within this time.
        """
        deadline = time.monotonic() + seconds
        with suppress(RuntimeError):  # rank 0 sends nothing: its exit ends this
            work = distributed.irecv(torch.empty(1), src=0)
            assert work is not None  # this rank is in the group
            work.wait(timedelta(seconds=seconds))
        return time.monotonic() < deadline

    def shard_indices(self, count: int) -> range:
        """Return the indices of the volumes, out of `count`, that belong to this rank."""
        return range(self.rank, count, self.size)

    def gather_shards(self, rows: Tensor) -> Tensor:
        """Gather rows for `shard_indices` into rows for all volumes, in order."""
        parts = gather(rows)
        whole = rows.new_empty(sum(map(len, parts)), *rows.shape[1:])
        for rank, part in enumerate(parts):
            whole[rank :: self.size] = part
        return whole


def find_rank(machine: Machine, device: torch.device, batch_size: int) -> ProcessGroup:
    """Find the rank from the variables of torchrun or SLURM, else from `machine.devices`.

    Raises:
        InputError: devices are not available, or the settings contradict each other.
    """
    info = _launched_rank(machine) or _unlaunched(machine, device)
    if device.type == "cuda" and info.local_rank >= torch.cuda.device_count():
        raise InputError(
            f"machine.devices: local rank {info.local_rank} sees "
            f"{plural(torch.cuda.device_count(), 'GPU', 'GPUs')}; "
            "let each process see all GPUs that are used on its node"
        )
    if info.size == 1 and machine.strategy != "auto":
        raise InputError(
            f"machine.strategy: {machine.strategy} requires at least two devices, but there is "
            "one; raise machine.devices, or choose auto"
        )
    if batch_size % info.size:
        raise InputError(
            f"train.batch_size: {plural(batch_size, 'volume', 'volumes')} cannot be split evenly "
            f"over {info.size} devices (machine.devices x machine.nodes); choose a multiple, or "
            "other devices"
        )
    if not (info.is_launched or info.is_one_node):
        raise InputError(
            "machine.nodes: for several nodes, start training on each of them by torchrun or "
            f"srun; {GUIDE}"
        )
    return info


def _launched_rank(machine: Machine) -> ProcessGroup | None:
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
    return ProcessGroup(rank, size, local_rank, requested, is_launched=True)


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


def _unlaunched(machine: Machine, device: torch.device) -> ProcessGroup:
    """Rank 0, of the process that launches the ranks or trains alone."""
    on_gpu = device.type == "cuda"
    available = torch.cuda.device_count() if on_gpu else 1
    requested = available if machine.devices == "auto" else machine.devices
    if on_gpu and requested > available:
        raise InputError(
            f"machine.devices: {plural(requested, 'GPU is', 'GPUs are')} requested, but torch sees "
            f"{available}; "
            f"set it to {available} or auto"
        )
    size = requested * machine.nodes
    return ProcessGroup(size=size, local_size=requested, is_launched=size == 1)


def run_rank(program: Callable[[], None]) -> NoReturn:
    """Run a program and exit; if it has joined a process group, without clean-up.

    Destroying the group can wait forever: for gloo's thread, which after a failed operation waits
    for the interpreter's lock, and on a GPU for ranks that have exited.
    """
    code: str | int | None = 0
    try:
        program()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if not code:
        ignore_signals()
    if distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
    sys.exit(code)


def _loopback_store(rank: int, size: int) -> TCPStore:
    """Return a store for the ranks of one node that listens on loopback only.

    PyTorch's own listens on all addresses, and any process that reaches it can join the group and
    have its members unpickle what it sends.
    """
    port, listener = int(os.environ["MASTER_PORT"]), None
    if rank == 0:
        listener = socket.create_server((_LOOPBACK, port)).detach()
    return TCPStore(
        _LOOPBACK, port, size, rank == 0, TIMEOUT, wait_for_workers=False,
        master_listen_fd=listener,
    )  # fmt: skip
