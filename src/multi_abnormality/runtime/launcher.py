"""Starts a process per device of this machine, by PyTorch's launcher, and waits for them."""

import ctypes
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes

from multi_abnormality.runtime.graceful_stop import EXIT_CODE, SIGNALS, mark_stopped
from multi_abnormality.runtime.lost_ranks import exit_like, wait_for_ranks
from multi_abnormality.runtime.process_group import NAMES, RENDEZVOUS

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
