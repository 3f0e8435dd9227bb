"""Starts a process per device of this machine, by PyTorch's launcher, and waits for them."""

import ctypes
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, PContext, start_processes

from multi_abnormality.runtime.graceful_stop import EXIT_CODE, SIGNALS, mark_stopped
from multi_abnormality.runtime.process_group import NAMES, RENDEZVOUS
from multi_abnormality.utils.errors import InputError

EXIT_TIMEOUT = 10.0  # s for the other ranks to exit by themselves once one has failed
_POLL_INTERVAL = 0.1  # s
_LAUNCHER = "MULTI_ABNORMALITY_LAUNCHER"  # variable with the launcher's process id
_PR_SET_PDEATHSIG = 1  # of prctl


def launch_ranks(size: int, command: list[str], grace: float) -> NoReturn:
    """Run a command once per rank, and exit as the ranks did.

    The ranks meet through a file, and so listen on no address but gloo's, on loopback.

    Args:
        grace: seconds that rank 0 may need to upload the last save.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"  # the others are forwarded
    received: list[int] = []
    pids: dict[int, int] = {}  # by rank, once they are started

    def forward(number: int, _: object) -> None:  # the ranks have sessions of their own
        received.append(number)
        if pids:
            os.kill(pids[0], number)  # rank 0 stops all ranks

    for number in SIGNALS:
        signal.signal(number, forward)
    with tempfile.TemporaryDirectory(prefix="multi-abnormality-") as folder:
        envs = {rank: _variables(rank, size, Path(folder)) for rank in range(size)}
        ranks = start_processes(
            "train", command[0], dict.fromkeys(range(size), tuple(command[1:])), envs,
            DefaultLogsSpecs(folder),
        )  # fmt: skip
        pids = ranks.pids()
        for early in tuple(received):
            os.kill(pids[0], early)
        try:
            failed = wait_for_ranks(ranks, grace)
        finally:
            ranks.close(signal.SIGKILL)  # those that hang
    if failed and {-code for code in failed.values()} <= set(received):
        mark_stopped()  # a rank that had just started could not handle the signal yet
        sys.exit(EXIT_CODE)
    exit_like(failed)


def end_with_launcher() -> None:
    """Have the system kill this rank when its launcher is killed, which leaves no orphan."""
    if _LAUNCHER not in os.environ or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[_LAUNCHER]):  # it was killed before
        os.kill(os.getpid(), signal.SIGKILL)


def _variables(rank: int, size: int, folder: Path) -> dict[str, str]:
    """Return torchrun's environment variables, and our own, for a rank."""
    values = dict(zip(NAMES, (rank, size, rank, "127.0.0.1", 0), strict=True))
    values |= {"LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0}
    # DDP warns that no parameter is unused, which is the usual case.
    values |= {"TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR")}
    values |= {RENDEZVOUS: (folder / "rendezvous").as_uri(), _LAUNCHER: os.getpid()}
    return {name: str(value) for name, value in values.items()}


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
