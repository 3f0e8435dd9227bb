"""Training on one machine listens on loopback addresses only."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from listeners import beyond_loopback, listeners
from multi_abnormality.config.schema import Params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.runtime.process_group import _loopback_store
from rank_tasks import free_port
from train_stage import TRAIN, Project


def test_socket_beyond_loopback_is_detected() -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        assert ("tcp", "0.0.0.0", port) in beyond_loopback(listeners(os.getpid()))
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        found = listeners(os.getpid())
        assert ("tcp6", "::1", port) in found
        assert ("tcp6", "::1", port) not in beyond_loopback(found)


def test_store_of_one_node_listens_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if a scheduler gives the node's name on the network."""
    port = free_port()
    monkeypatch.setenv("MASTER_ADDR", socket.gethostname())
    monkeypatch.setenv("MASTER_PORT", str(port))
    before = listeners(os.getpid())
    store = _loopback_store(0, 1)
    store.set("key", "value")
    opened = listeners(os.getpid()) - before
    assert {found for _, _, found in opened} == {port}
    assert not beyond_loopback(opened)


def observed(process: subprocess.Popen) -> set[tuple[str, str, int]]:
    """Collect all sockets that a run listens on, until it ends or for ten minutes."""
    found: set[tuple[str, str, int]] = set()
    end = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < end:
        found |= listeners(process.pid)
        time.sleep(0.05)
    return found


def srun(rank: int, port: int) -> dict[str, str]:
    """Variables that srun sets for one of two processes on this node."""
    return {
        "SLURM_JOB_ID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost",
        "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank),
        "MASTER_ADDR": socket.gethostname(), "MASTER_PORT": str(port),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("by", ["itself", pytest.param("srun", marks=pytest.mark.slow)])
def test_two_ranks_and_their_workers_listen_on_loopback(
    by: str, tmp_path: Path, small_params: Params, small_set: ProcessedDataset
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
        _, output = process.communicate(timeout=600)
        assert process.returncode == 0, output
    assert found  # gloo's pairs, and srun's store
    assert not beyond_loopback(found)


def test_preprocessing_workers_listen_on_loopback(tmp_path: Path) -> None:
    """Preprocessing workers communicate by pipes."""
    program = (
        "import tasks\n"
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from multi_abnormality.utils.parallel.run_all import run_all\n"
        "items = {str(i): (i,) for i in range(200)}\n"
        "work = partial(tasks.square, Path())\n"
        "list(run_all(work, items, tasks.machine(workers=2), [], 1 << 30))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    found = observed(process)
    assert process.wait() == 0
    assert not beyond_loopback(found)
