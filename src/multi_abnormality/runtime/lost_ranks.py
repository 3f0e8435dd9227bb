"""Lost ranks: how the launcher and the other ranks notice that a rank failed or was killed."""

import os
import signal
import sys
import time
from typing import NoReturn

from torch import distributed
from torch.distributed.elastic.multiprocessing import PContext

from multi_abnormality.runtime.graceful_stop import EXIT_CODE
from multi_abnormality.utils.errors import InputError

EXIT_TIMEOUT = 10.0  # s for the other ranks to exit by themselves once one has failed
_POLL_INTERVAL = 0.1  # s


class LostRankError(InputError):
    """Another rank exited in the middle of an operation of all ranks."""

    def __init__(self) -> None:
        super().__init__(
            "the connection to another rank is lost: it failed, was killed, or its node was lost. "
            "The last checkpoint is intact; `dvc repro` resumes from it"
        )


def is_lost_rank(error: RuntimeError) -> bool:
    """Whether an operation of all ranks failed, since another rank is lost."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def wait_for_ranks(ranks: PContext, grace: float) -> dict[int, int]:
    """Wait for all ranks; return the exit codes of those that failed first.

    Once one has failed, its peers' operations fail as well and end them. Those that hang, such as
    in an operation on a GPU, are terminated after EXIT_TIMEOUT; rank 0 has the grace period too.
    """
    failed: dict[int, int] = {}
    deadline = float("inf")
    pids = ranks.pids()
    while pids and time.monotonic() < deadline:
        exited = {rank: code for rank, pid in pids.items() if (code := _exit_code(pid)) is not None}
        pids = {rank: pid for rank, pid in pids.items() if rank not in exited}
        if not failed and any(exited.values()):
            failed = {rank: code for rank, code in exited.items() if code}
            deadline = time.monotonic() + EXIT_TIMEOUT + (grace if 0 in pids else 0)
        time.sleep(_POLL_INTERVAL)
    return failed


def exit_like(failed: dict[int, int]) -> NoReturn:
    """Exit as the ranks that failed first; those that exited by themselves gave the reason."""
    for rank, code in failed.items():
        if code < 0:
            raise InputError(
                f"rank {rank} was killed by {signal.Signals(-code).name}. The last checkpoint is "
                "intact; `dvc repro` resumes from it"
            )
    codes = set(failed.values())
    sys.exit(0 if not codes else EXIT_CODE if codes == {EXIT_CODE} else 1)


def _exit_code(pid: int) -> int | None:
    """Return the exit code of a child that has exited, negative for a signal; leave it to wait."""
    status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if status is None:
        return None
    return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
