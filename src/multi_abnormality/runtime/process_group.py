"""Process group of a run: starts with all ranks, and what they decide together.

Tensors of the model are averaged by DDP; only decisions, losses and predictions are exchanged
here, over gloo and so without waiting for a GPU's queue.
"""

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import NoReturn

import torch
from torch import Tensor, distributed
from torch.distributed import TCPStore

from multi_abnormality.runtime.graceful_stop import ignore_signals
from multi_abnormality.runtime.rank_info import RankInfo
from multi_abnormality.utils.collectives import gather
from multi_abnormality.utils.errors import InputError

RENDEZVOUS = "MULTI_ABNORMALITY_RENDEZVOUS"  # variable with a file:// URL, set by `launcher`
TIMEOUT = timedelta(minutes=30)  # of an operation; others wait while rank 0 saves and uploads
_LOOPBACK = "127.0.0.1"


class ProcessGroup:
    """Process group of a run, as seen by one rank. With a single process, methods are no-ops."""

    def __init__(
        self,
        rank_info: RankInfo = RankInfo(),  # noqa: B008  it is frozen
        device: torch.device | None = None,
    ) -> None:
        self.rank_info = rank_info
        self.rank, self.size = rank_info.rank, rank_info.size
        self._on_gpu = device is not None and device.type == "cuda"

    @property
    def is_rank_zero(self) -> bool:
        """Whether this rank is 0, the only one that writes files."""
        return self.rank == 0

    def device(self, kind: torch.device) -> torch.device:
        """Return this rank's device of a kind of which a machine has several."""
        if self.size == 1 or kind.type == "cpu":
            return kind
        return torch.device(kind.type, self.rank_info.local_rank)

    def join(self) -> None:
        """Wait for all ranks. A program that joins them has to run in `run_rank`."""
        if self.size == 1:
            return
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(torch.get_num_threads() // self.rank_info.local_size, 1))
        try:
            self._init()
        except (distributed.DistError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"rank {self.rank} cannot join the other ranks: {reason}") from error

    def _init(self) -> None:
        if self.rank_info.is_one_node and sys.platform == "linux":
            # By default both listen on the network, and a VPN's address may not be reachable.
            for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                os.environ.setdefault(name, "lo")
        backend = "gloo"
        if self._on_gpu:
            torch.cuda.set_device(self.rank_info.local_rank)
            backend = "cpu:gloo,cuda:nccl"
        # torchrun's agent serves the store itself.
        is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        if RENDEZVOUS in os.environ:
            distributed.init_process_group(
                backend, os.environ[RENDEZVOUS], TIMEOUT, self.size, self.rank
            )
        elif self.rank_info.is_one_node and not is_agents:
            store = _loopback_store(self.rank, self.size)
            distributed.init_process_group(backend, None, TIMEOUT, self.size, self.rank, store)
        else:
            distributed.init_process_group(backend, "env://", TIMEOUT)

    def agree(self, reason: str | None, is_due: bool) -> tuple[str | None, bool]:
        """Return the reason of the lowest rank that has one, and whether any rank is due."""
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
        traceback.print_exc()
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
