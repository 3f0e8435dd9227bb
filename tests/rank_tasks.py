"""Functions that tests run on several ranks."""

import multiprocessing
import os
import signal
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch

from hub_encoder import direct
from multi_abnormality.config.schema import Params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.graceful_stop import EXIT_CODE, Stopped, StopRequest
from multi_abnormality.runtime.loggers import tracking_thread
from multi_abnormality.runtime.process_group import NAMES, RENDEZVOUS, ProcessGroup
from multi_abnormality.runtime.training_run import RunPaths, TrainingRun
from multi_abnormality.utils.collectives import gather
from multi_abnormality.utils.errors import InputError
from stops import StopAtCheck

# A server process without threads that has imported everything, so that forking is fast.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["multi_abnormality.runtime.training_run"])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def run_on_ranks(size: int, work: Callable[..., object], *args: object) -> list[object]:
    """Return each rank's result of `work(ranks, *args)`, its error message or its exit code."""
    results = _context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        url = (Path(folder) / "rendezvous").as_uri()
        processes = [
            _context.Process(target=_run, args=(rank, size, url, results, work, args))
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    returned = {}
    while not results.empty():
        returned |= dict([results.get()])
    return [returned.get(rank, process.exitcode) for rank, process in enumerate(processes)]


def _run(
    rank: int,
    size: int,
    url: str,
    results: multiprocessing.SimpleQueue,
    work: Callable[..., object],
    args: tuple,
) -> None:
    values = (rank, size, rank, "127.0.0.1", 0)
    os.environ |= {name: str(value) for name, value in zip(NAMES, values, strict=True)}
    os.environ[RENDEZVOUS] = url
    try:
        ranks = ProcessGroup(rank, size, rank, size, True)
        ranks.join(torch.device("cpu"))
        outcome = work(ranks, *args)
    except Stopped:
        sys.exit(EXIT_CODE)
    except InputError as error:
        outcome = str(error)
    results.put((rank, outcome))


def run_collectives(ranks: ProcessGroup) -> list[object]:
    """Run every collective operation once."""
    volumes = torch.tensor(ranks.shard_indices(7))
    return [
        gather(f"from {ranks.rank}"),
        ranks.agree("it was asked to" if ranks.rank == 1 else None, False),
        ranks.agree(None, ranks.rank == 0),
        ranks.agree(None, False),
        ranks.gather_shards(volumes).tolist(),
    ]


class KillAtCheck(StopAtCheck):
    """Kills this process at the n-th check for a stop request."""

    @property
    def reason(self) -> str | None:
        if super().reason:
            os.kill(os.getpid(), signal.SIGKILL)
        return None


class KillOnceLogged(StopAtCheck):
    """Kills this process at the n-th check for a stop request, once MLflow has logged steps."""

    def __init__(self, number: int, database: Path) -> None:
        super().__init__(number)
        self.database = database

    @property
    def reason(self) -> str | None:
        if super().reason:
            while not self._is_logged() and any(
                thread.name == "mlflow" for thread in threading.enumerate()
            ):
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    def _is_logged(self) -> bool:
        if not self.database.exists():
            return False
        with closing(sqlite3.connect(self.database, timeout=60)) as database:
            return database.execute("SELECT COUNT(*) FROM metrics").fetchone()[0] > 0


class RecordSeed(StopRequest):
    """Records torch's seed at each check for a stop request."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    @property
    def reason(self) -> str | None:
        self.seen.append(torch.initial_seed())
        return None


def train(
    ranks: ProcessGroup,
    params: Params,
    processed: Path,
    folder: Path,
    stops: dict[int, StopRequest],
) -> str | list[int]:
    """Train with the stop requests of some ranks; return what a RecordSeed has recorded."""
    paths = RunPaths(
        folder / "checkpoints",
        folder / "logs",
        folder / "history.csv",
        CheckpointArchive(folder / "archive", folder / "cache"),
    )
    stop = stops.get(ranks.rank, StopRequest())
    TrainingRun(params, ProcessedDataset(processed), paths, ranks).run(stop)
    return stop.seen[1:] if isinstance(stop, RecordSeed) else "done"  # the first is before training


def train_alone(
    ranks: ProcessGroup,
    params: Params,
    processed: Path,
    folders: list[Path],
    stop: StopRequest,
    environment: dict[str, str],
) -> list[str | list[int]]:
    """Train on one rank in each folder with some environment variables; trackers have time."""
    os.environ |= environment
    tracking_thread.CLOSE_SECONDS = 600
    return [train(ranks, params, processed, folder, {0: stop}) for folder in folders]


def train_from_hub(ranks: ProcessGroup, params: Params, root: Path, folder: Path, port: int) -> str:
    """Train one epoch from weights on a hub; return the hash of the weights."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        direct(monkeypatch, port, folder / "cache")
        archive = CheckpointArchive(folder / "archive", folder / "dvc")
        paths = RunPaths(folder / "checkpoints", folder / "logs", folder / "history.csv", archive)
        train = params.train.model_copy(update={"epochs": 1})
        params = params.model_copy(update={"train": train})
        run = TrainingRun(params, ProcessedDataset(root), paths, ranks)
        run.run()
        return run.metadata["identity"]["pretrained_cfg"]["sha256"]
