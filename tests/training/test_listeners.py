"""Training on one machine listens at loopback addresses alone."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from listeners import beyond_loopback, listeners
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.params import Params
from multi_abnormality.training.meeting import meet
from multi_abnormality.training.place import Place
from rank_tasks import free_port
from train_stage import TRAIN, Project


def test_a_socket_beyond_loopback_is_seen() -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        assert ("tcp", "0.0.0.0", port) in beyond_loopback(listeners(os.getpid()))
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        found = listeners(os.getpid())
        assert ("tcp6", "::1", port) in found
        assert ("tcp6", "::1", port) not in beyond_loopback(found)


@pytest.mark.parametrize("address", ["127.0.0.1", socket.gethostname()])
def test_the_store_of_one_node_is_on_loopback(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a scheduler names the node by its name on the network."""
    monkeypatch.setattr("multi_abnormality.training.meeting.PATIENCE", 20.0)
    before, place = listeners(os.getpid()), (0, 1, 0, 1, address, free_port(), True)
    store, _ = meet(Place(*place), (), [])
    store.set("key", "value")
    opened = listeners(os.getpid()) - before
    assert {port for _, _, port in opened} == {place[5]}
    assert not beyond_loopback(opened)


def observed(process: subprocess.Popen) -> set[tuple[str, str, int]]:
    """All that a training listens at until it ends, or has had a while."""
    found: set[tuple[str, str, int]] = set()
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        found |= listeners(process.pid)
        time.sleep(0.05)
    return found


def srun(rank: int, port: int) -> dict[str, str]:
    """What srun would say to one of two processes on this node."""
    return {
        "SLURM_JOB_ID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost",
        "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank),
        "MASTER_ADDR": socket.gethostname(), "MASTER_PORT": str(port),
    }  # fmt: skip


@pytest.mark.parametrize("by", ["itself", pytest.param("srun", marks=pytest.mark.slow)])
def test_two_processes_and_their_loaders_listen_at_loopback(
    by: str, tmp_path: Path, small_params: Params, small_set: ProcessedSet
) -> None:
    project = Project(tmp_path / "project", small_params, small_set)
    project.change("machine", devices=2, workers=1)
    project.change("train", epochs=1)
    if by == "itself":
        processes = [project.start()]
    else:
        port = free_port()
        processes = [project.start(TRAIN, **srun(rank, port)) for rank in range(2)]
    found = observed(processes[0])
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert found  # the store and gloo's pairs
    assert not beyond_loopback(found)


def test_workers_of_this_machine_listen_at_loopback(tmp_path: Path) -> None:
    """Of preprocessing: they talk by pipes."""
    program = (
        "import tasks\n"
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from multi_abnormality.data.work.outcomes import outcomes\n"
        "items = {str(i): (i,) for i in range(200)}\n"
        "work = partial(tasks.square, Path())\n"
        "list(outcomes(work, items, tasks.machine(workers=2), [], 1 << 30))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    found = observed(process)
    assert process.wait() == 0
    assert not beyond_loopback(found)
