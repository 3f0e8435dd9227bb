"""What a training's processes do together. All that differs between them is decided here.

Each runs Lightning's trainer for one device, on its share of every batch, and takes each step with
the mean of all gradients: data-parallel training (DDP) in its plainest form. Torch's own wrapper
orders gradients anew after its first step, and with it the sums of three processes or more, so that
a resumed training would not repeat an undisturbed one's bits; and it is told once, at its start,
what learns, which fine-tuning changes with the epoch.
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

from multi_abnormality.console import log
from multi_abnormality.errors import InputError
from multi_abnormality.training.link import PATIENCE, Ending, Link
from multi_abnormality.training.meeting import meet
from multi_abnormality.training.place import Place
from multi_abnormality.training.stopping import EXIT_CODE, Stopped

_TOLD = 5.0  # s in which the reason of a broken collective operation is heard

T = TypeVar("T")


class Ranks:
    """The processes of a training, as one of them sees them. Alone, it does nothing.

    As a context it ends the others with this one.

    Args:
        place: which this one is.
        command: starts another one on this machine.
        device: of this one.
    """

    def __init__(
        self,
        place: Place = Place(),  # noqa: B008  it is frozen
        command: Sequence[str] = (),
        device: torch.device | None = None,
    ) -> None:
        self.rank, self.size = place.rank, place.size
        self.place = place
        self._command = command
        self._on_gpu = device is not None and device.type == "cuda"
        self._link: Link | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        self._gradients: distributed.ProcessGroup | None = None  # None: the one on the CPU

    def __deepcopy__(self, memo: dict[int, Any]) -> "Ranks":
        return self  # with the module, for the average of weights

    @property
    def leads(self) -> bool:
        """Whether this one writes files: one alone does."""
        return self.rank == 0

    def device(self, kind: torch.device) -> torch.device:
        """This process's own, of a kind that a machine has several of."""
        if self.size == 1 or kind.type == "cpu":
            return kind
        return torch.device(kind.type, self.place.local_rank)

    def __enter__(self) -> "Ranks":
        if self.size > 1 and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(torch.get_num_threads() // self.place.local_size, 1))
        if self.place.is_started and self.size > 1:
            with ExitStack() as stack:
                stack.push(self)  # where one is lost while they meet, it is told as later
                self._meet()
                stack.pop_all()
        return self

    def assemble(self) -> None:
        """Have all processes there: start them, where nobody else does.

        Raises:
            InputError: see `meet`.
        """
        if self.size > 1 and self._link is None:
            self._meet()

    def _meet(self) -> None:
        if self.place.is_one_node and sys.platform == "linux":
            # By themselves both listen on the network, and a VPN's address may lead nowhere.
            for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                os.environ.setdefault(name, "lo")
        store, peers = meet(self.place, self._command, self._children)
        self._link = Link(self.rank, peers, self._give_up)
        # What is decided goes over the CPU's group, so that no step waits for the GPU's queue.
        distributed.init_process_group(
            "gloo", store=PrefixStore("group", store), rank=self.rank, world_size=self.size
        )
        if self._on_gpu:
            torch.cuda.set_device(self.place.local_rank)
            self._gradients = distributed.new_group(backend="nccl")

    def leave(self) -> None:
        """From now on this process waits for no other one, and goes on also where one fails."""
        if self._link is not None:
            self._link.leave()

    def share(self, value: T) -> T:
        """Process 0's value."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Each process's value, by rank."""
        if self.size == 1:
            return [value]
        values = [value] * self.size
        distributed.all_gather_object(values, value)
        return values

    def gather_number(self, value: float) -> list[float]:
        """As `gather`, and cheap enough for every step."""
        if self.size == 1:
            return [value]
        values = list(torch.empty(self.size, 1, dtype=torch.float64))
        distributed.all_gather(values, torch.tensor([value], dtype=torch.float64))
        return [each.item() for each in values]

    def any_of(self, reason: str | None) -> str | None:
        """The first of the processes' reasons, if one has any. Every one must ask."""
        if self.size == 1:
            return reason
        if not any(self.gather_number(float(reason is not None))):
            return None
        return next(other for other in self.gather(reason) if other is not None)

    def volumes(self, count: int) -> range:
        """This process's of so many volumes: each is one's alone."""
        return range(self.rank, count, self.size)

    def gather_volumes(self, tensor: Tensor) -> Tensor:
        """A row a volume, of all of them in order, from a row for each of `volumes`."""
        parts = self.gather(tensor)
        whole = tensor.new_empty(sum(map(len, parts)), *tensor.shape[1:])
        for rank, part in enumerate(parts):
            whole[rank :: self.size] = part
        return whole

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over the processes in place of each tensor; one operation for all of them.

        So what is added to what is a function of the tensors' sizes alone.
        """
        if self.size == 1 or not tensors:
            return
        whole = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(whole, group=self._gradients)
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
        if self._link is None:
            self._end_children(0)
            return
        is_known = error is None or isinstance(error, InputError | Stopped)
        ending = None if is_known else self._link.ending_within(_TOLD)
        self._link.say(_exit_code(error), "" if error is None or ending else _describe(error))
        waits = error is not None and self._on_gpu  # NCCL would, for processes that are gone
        if distributed.is_initialized() and not waits:
            distributed.destroy_process_group()
        if self._children:
            self._link.hang_up()
            self._end_children(PATIENCE + _TOLD)
        if error is not None and not self.leads:
            self._link.outwait_first()
        if ending is not None:
            self._raise(ending, error)
        if not self.leads and isinstance(error, InputError):
            raise SystemExit(1) from error  # process 0 tells of it

    def _raise(self, ending: Ending, error: BaseException | None) -> NoReturn:
        """This process's error is but a consequence of another one's end."""
        if self.leads or ending == Ending(0):
            raise InputError(_tell(ending)) from error
        raise SystemExit(1 if ending.code is None else ending.code) from error

    def _give_up(self, ending: Ending) -> None:
        if self.leads or ending == Ending(0):
            log.error("error: %s", _tell(ending))
        self._end_children(0)
        os._exit(1 if ending.code is None else ending.code)

    def _end_children(self, patience: float) -> None:
        for child in self._children:
            try:
                child.wait(patience)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _tell(ending: Ending) -> str:
    if ending.text:
        return f"process {ending.rank}: {ending.text}"
    return (
        f"process {ending.rank} of this training ended without a word: it was killed, or its "
        "machine is gone. What was saved before is kept, and `dvc repro` goes on from there"
    )


def _describe(error: BaseException) -> str:
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def _exit_code(error: BaseException | None) -> int:
    if error is None:
        return 0
    return EXIT_CODE if isinstance(error, Stopped) else 1
