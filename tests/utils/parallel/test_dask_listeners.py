"""A local Dask cluster, started as in docs/how-to/ct-rate.md, listens only on loopback."""

import os
from functools import partial
from pathlib import Path

import tasks
from dask_cluster import DaskCluster
from listeners import beyond_loopback, listeners
from multi_abnormality.utils.parallel.run_all import run_all


def test_scheduler_worker_and_client_listen_at_loopback(tmp_path: Path) -> None:
    before = listeners(os.getpid())
    with DaskCluster(tmp_path / "cluster") as cluster:
        cluster.add_worker("--nanny")
        (tmp_path / "out").mkdir()
        work = partial(tasks.square, tmp_path / "out")
        items = {str(number): (number,) for number in range(5)}
        machine = tasks.machine(dask=cluster.address)
        done = 0
        for _ in run_all(work, items, machine, [tmp_path / "out"], 1 << 30):
            done += 1
            found = listeners(os.getpid()) - before
        assert done == 5
    assert len(found) >= 3  # scheduler, nanny and worker
    assert not beyond_loopback(found)
