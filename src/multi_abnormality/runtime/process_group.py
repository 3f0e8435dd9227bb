"""Distributed data-parallel context: rank info, collectives, launch and shutdown.

Each rank runs Lightning's Trainer for one device on its part of every batch, and steps with the
mean of all gradients. PyTorch's DistributedDataParallel reorders its gradient buckets after the
first step, which from three ranks on changes the sums after a resume; and it fixes the set of
trainable parameters when it wraps the model, while fine-tuning changes them by epoch.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed import PrefixStore

from multi_abnormality.runtime.failure_detector import GRACE_PERIOD, ExitStatus, PeerMonitor
from multi_abnormality.runtime.graceful_stop import EXIT_CODE, Stopped
from multi_abnormality.runtime.rank_info import RankInfo
from multi_abnormality.runtime.rendezvous import connect_ranks
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError

_EXIT_STATUS_TIMEOUT = 5.0  # s in which the cause of a failed collective operation is received

T = TypeVar("T")


class DistributedContext:
    """Process group of a run as seen by one rank. With a single process all methods are no-ops.

    As a context manager it shuts down the other ranks with this one.

    Args:
        rank_info: rank and world size of this process.
        command: command that starts another rank on this machine.
        device: device of this process.
    """

    def __init__(
        self,
        rank_info: RankInfo = RankInfo(),  # noqa: B008  it is frozen
        command: Sequence[str] = (),
        device: torch.device | None = None,
    ) -> None:
        self.rank, self.size = rank_info.rank, rank_info.size
        self.rank_info = rank_info
        self._command = command
        self._on_gpu = device is not None and device.type == "cuda"
        self._monitor: PeerMonitor | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        self._gradient_group: distributed.ProcessGroup | None = None  # None: the CPU group

    def __deepcopy__(self, memo: dict[int, Any]) -> "DistributedContext":
        return self  # WeightAveraging copies the module, which refers to this

    @property
    def is_rank_zero(self) -> bool:
        """Whether this rank is 0, the only one that writes files."""
        return self.rank == 0

    def device(self, kind: torch.device) -> torch.device:
        """Return this rank's device of a kind of which a machine has several."""
        if self.size == 1 or kind.type == "cpu":
            return kind
        return torch.device(kind.type, self.rank_info.local_rank)

    def __enter__(self) -> "DistributedContext":
        if self.size > 1 and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(torch.get_num_threads() // self.rank_info.local_size, 1))
        if self.rank_info.is_started and self.size > 1:
            with ExitStack() as stack:
                stack.push(self)  # so that a rank lost during rendezvous is reported as any other
                self._rendezvous()
                stack.pop_all()
        return self

    def init(self) -> None:
        """Initialize the process group, and launch local ranks unless a launcher did.

        Raises:
            InputError: see `connect_ranks`.
        """
        if self.size > 1 and self._monitor is None:
            self._rendezvous()

    def _rendezvous(self) -> None:
        if self.rank_info.is_one_node and sys.platform == "linux":
            # By default both listen on the network, and a VPN's address may not be reachable.
            for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                os.environ.setdefault(name, "lo")
        store, peers = connect_ranks(self.rank_info, self._command, self._children)
        self._monitor = PeerMonitor(self.rank, peers, self._give_up)
        # Decisions are exchanged over the CPU group, so that no step waits for the GPU's queue.
        distributed.init_process_group(
            "gloo", store=PrefixStore("group", store), rank=self.rank, world_size=self.size
        )
        if self._on_gpu:
            torch.cuda.set_device(self.rank_info.local_rank)
            self._gradient_group = distributed.new_group(backend="nccl")

    def detach(self) -> None:
        """Stop waiting for other ranks; this one continues even if another fails."""
        if self._monitor is not None:
            self._monitor.detach()

    def broadcast_object(self, value: T) -> T:
        """Return rank 0's value."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, by rank."""
        if self.size == 1:
            return [value]
        values = [value] * self.size
        distributed.all_gather_object(values, value)
        return values

    def all_gather_scalar(self, value: float) -> list[float]:
        """Gather a float from all ranks; cheap enough for every step."""
        if self.size == 1:
            return [value]
        values = list(torch.empty(self.size, 1, dtype=torch.float64))
        distributed.all_gather(values, torch.tensor([value], dtype=torch.float64))
        return [each.item() for each in values]

    def any_reason(self, reason: str | None) -> str | None:
        """Return the reason of the lowest rank that has one. All ranks must call this."""
        if self.size == 1:
            return reason
        if not any(self.all_gather_scalar(float(reason is not None))):
            return None
        return next(other for other in self.gather(reason) if other is not None)

    def shard_indices(self, count: int) -> range:
        """Return the indices of the volumes, out of `count`, that belong to this rank."""
        return range(self.rank, count, self.size)

    def all_gather_volumes(self, tensor: Tensor) -> Tensor:
        """Gather rows for `shard_indices` into rows for all volumes, in order."""
        parts = self.gather(tensor)
        whole = tensor.new_empty(sum(map(len, parts)), *tensor.shape[1:])
        for rank, part in enumerate(parts):
            whole[rank :: self.size] = part
        return whole

    @torch.no_grad()
    def all_reduce_mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor with its mean over the ranks, by one all-reduce for all of them.

        The order of summation then depends on the tensors' sizes alone.
        """
        if self.size == 1 or not tensors:
            return
        whole = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(whole, group=self._gradient_group)
        whole /= self.size
        parts = whole.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._monitor is None:
            self._end_children(0)
            return
        is_known = error is None or isinstance(error, InputError | Stopped)
        status = None if is_known else self._monitor.wait_for_exit_status(_EXIT_STATUS_TIMEOUT)
        message = "" if error is None or status else _describe(error)
        self._monitor.report_exit(_exit_code(error), message)
        waits = error is not None and self._on_gpu  # NCCL would wait for ranks that have exited
        if distributed.is_initialized() and not waits:
            distributed.destroy_process_group()
        if self._children:
            self._monitor.close_connection()
            self._end_children(GRACE_PERIOD + _EXIT_STATUS_TIMEOUT)
        if error is not None and not self.is_rank_zero:
            self._monitor.wait_for_rank_zero()
        if status is not None:
            self._raise(status, error)
        if not self.is_rank_zero and isinstance(error, InputError):
            raise SystemExit(1) from error  # rank 0 reports it

    def _raise(self, status: ExitStatus, error: BaseException | None) -> NoReturn:
        """Raise for the other rank's exit, which caused this rank's error."""
        if self.is_rank_zero or status == ExitStatus(0):
            raise InputError(_exit_message(status)) from error
        raise SystemExit(1 if status.code is None else status.code) from error

    def _give_up(self, status: ExitStatus) -> None:
        if self.is_rank_zero or status == ExitStatus(0):
            log.error("error: %s", _exit_message(status))
        self._end_children(0)
        os._exit(1 if status.code is None else status.code)

    def _end_children(self, timeout: float) -> None:
        for child in self._children:
            try:
                child.wait(timeout)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _exit_message(status: ExitStatus) -> str:
    if status.text:
        return f"rank {status.rank}: {status.text}"
    return (
        f"rank {status.rank} exited without an error message (killed, or its node was lost). The "
        "last checkpoint is intact; `dvc repro` resumes from it"
    )


def _describe(error: BaseException) -> str:
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def _exit_code(error: BaseException | None) -> int:
    if error is None:
        return 0
    return EXIT_CODE if isinstance(error, Stopped) else 1
