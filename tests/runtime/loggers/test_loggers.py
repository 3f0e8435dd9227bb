"""Loggers of steps and epochs, read back after a kill and on another machine."""

import csv
import json
import logging
import signal
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from multi_abnormality.config.schema import Params
from multi_abnormality.runtime.graceful_stop import StopRequest
from multi_abnormality.runtime.loggers import tracking_thread
from multi_abnormality.runtime.loggers.logged_run import LoggedRun, epoch_values
from multi_abnormality.runtime.loggers.logger_registry import PACKAGES, make_loggers
from multi_abnormality.training.history import EpochMetrics, History, StepMetrics, StopCriteria
from multi_abnormality.utils.errors import InputError
from rank_tasks import KillOnceLogged, run_on_ranks, train_alone

TRACKERS = ("wandb", "mlflow", "dvclive")
ALL = ("tensorboard", "csv", *TRACKERS)
OFFLINE = {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": "", "WANDB_DIR": ""}

Series = dict[str, list[tuple[int, float]]]  # steps and values of each metric, as logged


def read_csv(folder: Path) -> Series:
    rows = list(csv.DictReader((folder / "logs/steps.csv").open()))
    names = {"loss", "learning_rate", "grad_norm"}
    return {
        f"train/{name}": [(int(row["step"]), float(row[name])) for row in rows] for name in names
    }


def read_tensorboard(folder: Path) -> Series:
    (file,) = (folder / "logs").glob("events.*")
    events = EventAccumulator(str(file), {"scalars": 0}).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def read_dvclive(folder: Path) -> Series:
    root = folder / "logs/dvclive/plots/metrics"
    series = {}
    for path in root.rglob("*.tsv"):
        rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
        name = path.relative_to(root).with_suffix("").as_posix()
        series[name] = [(int(step), float(value)) for step, value in rows]
    return series


def read_mlflow(folder: Path) -> Series:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/logs/mlflow.db")
    experiment = client.get_experiment_by_name("multi-abnormality")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.batch_size"] == "4"
    return {
        name: [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


def read_wandb(folder: Path) -> Series:
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = (folder / "logs/wandb").glob("offline-run-*/*.wandb")
    series: Series = {}
    for content in leveldb_records(file.read_bytes()[7:], offset=7):
        items = Record.FromString(content).history.item
        row = {item.nested_key[0]: json.loads(item.value_json) for item in items if item.nested_key}
        row |= {item.key: json.loads(item.value_json) for item in items if item.key}
        number = row.pop("step", row.pop("epoch", None))
        for name, value in row.items():
            if not name.startswith("_"):
                series.setdefault(name, []).append((number, value))
    return series


def leveldb_records(content: bytes, offset: int) -> Iterator[bytes]:
    """Records of a log in LevelDB's format, of which W&B's files have one."""
    position, record = 0, b""
    while position + 7 <= len(content):
        left = 32768 - (position + offset) % 32768
        if left < 7:
            position += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, position)
        part = content[position + 7 : position + 7 + size]
        position += 7 + size
        record = part if kind in (1, 2) else record + part  # 1: whole, 2: first, 4: last
        if kind in (1, 4):
            yield record


READERS = {
    "tensorboard": read_tensorboard,
    "csv": read_csv,
    "wandb": read_wandb,
    "mlflow": read_mlflow,
    "dvclive": read_dvclive,
}


@pytest.fixture(scope="module")
def resumed(
    runner, small_params: Params, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Directories of a run with all loggers that was killed, and resumed here and elsewhere."""
    for package in TRACKERS:
        pytest.importorskip(package)
    root = tmp_path_factory.mktemp("resumed")
    settings = {"loggers": ALL, "log_every_n_steps": 1}
    params = small_params.model_copy(
        update={"train": small_params.train.model_copy(update=settings)}
    )
    data = runner.prepare(root / "unused").datamodule
    checks_per_epoch = data.batches + data.stop_check_batches + 1
    here, elsewhere = root / "here", root / "elsewhere"
    last_step = 1 + 2 * checks_per_epoch + data.batches - 1
    kill = KillOnceLogged(last_step, here / "logs/mlflow.db")

    def train(folders: list[Path], stop: StopRequest) -> object:
        arguments = (params, runner.processed.root, folders, stop, OFFLINE)
        (outcome,) = run_on_ranks(1, train_alone, *arguments)
        return outcome

    assert train([here], kill) == -signal.SIGKILL
    copytree(here / "checkpoints", elsewhere / "checkpoints")
    assert train([here, elsewhere], StopRequest()) == ["done", "done"]
    return {"here": here, "elsewhere": elsewhere}


@pytest.mark.parametrize("machine", ["here", "elsewhere"])
@pytest.mark.parametrize("name", ALL)
def test_each_step_stands_once_after_a_kill(name: str, machine: str, resumed, reference, runner):
    history = runner.prepare(reference).history
    assert [step.step for step in history.steps] == list(range(1, history.epochs[-1].step + 1))
    expected: Series = {
        f"train/{metric}": [(step.step, getattr(step, metric)) for step in history.steps]
        for metric in ("loss", "learning_rate", "grad_norm")
    }
    if name != "csv":
        for epoch in history.epochs:
            for metric, value in epoch_values(epoch).items():
                expected.setdefault(metric, []).append((epoch.epoch, value))
        assert any(metric.startswith("auroc/") for metric in expected)
    found = READERS[name](resumed[machine])
    for metric, values in expected.items():
        steps, numbers = zip(*found[metric], strict=True)
        assert steps == tuple(step for step, _ in values), metric
        assert numbers == pytest.approx([value for _, value in values], rel=1e-6), metric
    speeds = found.get("train/volumes_per_second", [])
    assert all(value > 0 for _, value in speeds)
    assert {step for step, _ in speeds} <= {step.step for step in history.steps}
    assert len(speeds) == len(dict(speeds))


def test_loggers_do_not_change_the_checkpoints(runner, resumed, reference: Path, tmp_path: Path):
    """Nor does the number of steps between two readings of the losses."""
    runner.run(tmp_path, loggers=(), log_every_n_steps=1)
    assert not (tmp_path / "logs").exists()
    for folder in (tmp_path, *resumed.values()):
        assert runner.hashes(folder) == runner.hashes(reference)


def test_speeds_in_the_csv_file_survive_a_resume(resumed):
    speeds = {
        name: [
            row["volumes_per_second"] for row in csv.DictReader((path / "logs/steps.csv").open())
        ]
        for name, path in resumed.items()
    }
    assert all(speeds["here"])
    assert not any(speeds["elsewhere"][:2])


def test_changed_loggers_do_not_train_again(runner, reference: Path, tmp_path: Path):
    copytree(reference / "checkpoints", tmp_path / "checkpoints")
    training = runner.prepare(tmp_path, loggers=(), log_every_n_steps=7)
    assert training.is_finished
    training.run()
    assert runner.hashes(tmp_path) == runner.hashes(reference)


def test_accumulated_batches_are_one_step(runner, tmp_path: Path):
    history = runner.run(tmp_path, epochs=1, accumulate_grad_batches=2)
    batches = runner.prepare(tmp_path, epochs=1, accumulate_grad_batches=2).datamodule.batches
    assert [step.step for step in history.steps] == list(range(1, -(-batches // 2) + 1))


def test_missing_package_is_named_with_its_extra(runner, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(PACKAGES, "wandb", ("no_such_package",))
    with pytest.raises(InputError, match=r"no_such_package: pip install 'multi-abn.*\[wandb\]'"):
        runner.run(tmp_path, loggers=("csv", "wandb"))
    assert not (tmp_path / "checkpoints").exists()


class BreakCsvAtCheck(StopRequest):
    """Replaces the CSV file by a directory at the n-th check for a stop request."""

    def __init__(self, number: int, path: Path) -> None:
        super().__init__()
        self.left, self.path = number, path

    @property
    def reason(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.path.unlink()
            self.path.mkdir()


def test_file_error_in_the_middle_keeps_the_last_checkpoint(runner, reference, tmp_path: Path):
    path = tmp_path / "logs/steps.csv"
    with pytest.raises(InputError, match=r"steps\.csv: cannot be written"):
        runner.run(tmp_path, BreakCsvAtCheck(4, path), save_every_n_minutes=1e-9)
    path.rmdir()
    assert runner.prepare(tmp_path).checkpoint.position.batch > 0
    runner.run(tmp_path)
    assert runner.hashes(tmp_path) == runner.hashes(reference)


@pytest.mark.parametrize("name", ["csv", "tensorboard"])
def test_file_that_cannot_be_written_is_an_error(name: str, runner, tmp_path: Path):
    (tmp_path / "logs").touch()
    with pytest.raises(InputError, match=r"logs.* cannot be written"):
        runner.run(tmp_path, loggers=(name,))


def test_wandb_without_credentials_is_an_error(runner, tmp_path: Path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    with pytest.raises(InputError, match="WANDB_API_KEY"):
        runner.run(tmp_path, loggers=("wandb",))


def test_unreachable_tracker_does_not_end_the_training(
    runner, tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking_thread, "CLOSE_SECONDS", 600)
    assert len(runner.run(tmp_path, loggers=("mlflow",), epochs=1).epochs) == 1
    assert "mlflow: metrics cannot be logged" in caplog.text
    assert len([each for each in caplog.records if each.levelno == logging.WARNING]) <= 3


def logged_run(folder: Path, steps: int = 4) -> LoggedRun:
    history = History(
        [EpochMetrics(0, steps, 1e-3, 0.5, 0.4, 0.7, {"A/B": 0.7, "A:B": 0.6})],
        [StepMetrics(number, 1 / number, 1e-3, 1.0) for number in range(1, steps + 1)],
    )
    return LoggedRun("abc", {"seed": 0}, history, StopCriteria(2, 2), folder, folder / "h.csv")


def test_findings_have_names_that_all_trackers_accept(tmp_path: Path):
    names = epoch_values(logged_run(tmp_path).history.epochs[0]).keys()
    assert names == {"train_loss", "val_loss", "val_auroc", "auroc/A_B", "auroc/A_B_"}


@pytest.mark.slow
def test_mlflow_starts_a_run_where_the_named_one_is_unknown(
    tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
):
    pytest.importorskip("mlflow")
    caplog.set_level("INFO")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setattr(tracking_thread, "STOP_SECONDS", 600)
    for _ in range(2):
        (logger,) = make_loggers(["mlflow"], logged_run(tmp_path / "logs"))
        logger.close()
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if f"MLFLOW_RUN_ID is {'0' * 32}, but" in line]) == 2
    assert len([line for line in lines if "a new one starts" in line]) == 1
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/logs/mlflow.db")
    (run,) = client.search_runs(["1"])
    assert run.info.status == "KILLED"  # one of its two epochs is done
    assert [each.step for each in client.get_metric_history(run.info.run_id, "train/loss")] == [
        1, 2, 3, 4,
    ]  # fmt: skip


class Flaky(tracking_thread.TrackingThread):
    """Tracker in memory that fails in the middle of a batch, once connected the n-th time."""

    name = "flaky"
    failures = 2

    def connect(self) -> None:
        if not hasattr(self, "held"):
            self.held: list[int] = []
        self.sent_step, self.sent_epochs = max(self.held, default=0), 0

    def send_steps(self, steps) -> None:
        for step in steps:
            if step == 3 and self.failures:
                self.failures -= 1
                raise ConnectionError("the server is away")
            self.held.append(step)

    def send_epoch(self, epoch, values) -> None: ...

    def finish(self) -> None:
        self.held.append(-1)


def test_tracker_that_returns_gets_all_steps(
    tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(tracking_thread, "RETRY_SECONDS", 0.01)
    logger = Flaky(logged_run(tmp_path))
    while logger.failures:
        logger._thread.join(0.01)
    logger.close()
    assert logger.held == [1, 2, 3, 4, -1]
    assert caplog.text.count("metrics cannot be logged (the server is away)") == 1


def test_tracker_that_hangs_does_not_delay_a_stop(
    tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(tracking_thread, "STOP_SECONDS", 0.01)
    answers = threading.Event()
    monkeypatch.setattr(Flaky, "connect", lambda _: answers.wait())
    logger = Flaky(logged_run(tmp_path))
    logger.close()
    answers.set()
    assert "flaky: not all metrics were sent" in caplog.text
