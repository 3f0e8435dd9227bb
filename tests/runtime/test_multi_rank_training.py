"""Training on several ranks, one per device; here CPUs, over gloo on loopback."""

import os
import signal
import sys
from collections.abc import Mapping
from itertools import chain, product
from pathlib import Path
from types import MappingProxyType

import psutil
import pytest
import torch

from multi_abnormality.data.loading.train_dataset import TrainDataset, train_dataloader
from multi_abnormality.runtime.checkpoint_io import load_checkpoint
from multi_abnormality.runtime.graceful_stop import Stopped
from multi_abnormality.runtime.process_group import NAMES, ProcessGroup, find_rank
from multi_abnormality.utils.errors import InputError
from rank_tasks import (
    KillAtCheck,
    RecordSeed,
    free_port,
    run_collectives,
    run_on_ranks,
    train,
)
from stops import StopAtCheck
from train_stage import TRAIN, Project

ALWAYS = {"save_every_n_minutes": 1e-9}  # a save after every step
CPU = torch.device("cpu")
NONE = MappingProxyType({})
VIT = {"backbone": "test_vit", "multiscale": False}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *TRAIN[1:]]


@pytest.fixture
def projects(tmp_path: Path, small_params, small_set):
    """Factory of projects that train on two devices for a few seconds."""

    def make(name: str, **train: object) -> Project:
        project = Project(tmp_path / name, small_params, small_set)
        often = {"early_stopping_patience": 20, "save_every_n_minutes": 1e-9}
        project.change("train", **{"epochs": 8} | often | train)
        project.change("machine", devices=2)
        return project

    return make


# Split of the work between ranks


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_split_each_batch(ranks: int, small_set, small_params):
    names = small_set.volumes("train")["name"].tolist()
    volumes = TrainDataset(small_set, names, small_params.train, seed=0)

    def batches(batch: int, rank: int = 0, ranks: int = 1) -> list[list[str]]:
        loader = train_dataloader(volumes, 4, 0, 3, batch, rank, ranks)
        assert len(loader) == len(volumes) // 4
        return [found["name"] for found in loader]

    whole = batches(0)
    assert len({name for names in whole for name in names}) == len(volumes) // 4 * 4
    for first in (0, 2):
        split = zip(*(batches(first, rank, ranks) for rank in range(ranks)), strict=True)
        assert [[*chain(*parts)] for parts in split] == whole[first:]


def of(machine: dict, small_params, batch_size: int = 4) -> ProcessGroup:
    settings = small_params.machine.model_copy(update=machine)
    return find_rank(settings, CPU, batch_size)


def test_single_process_by_default(small_params):
    assert of({}, small_params) == ProcessGroup(is_launched=True)
    assert of({"devices": "auto"}, small_params) == ProcessGroup(is_launched=True)
    assert of({"devices": 4, "strategy": "ddp"}, small_params).size == 4


def test_rank_from_torchrun(small_params, monkeypatch: pytest.MonkeyPatch):
    for name, value in zip(NAMES, ("5", "8", "1", "head", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    expected = ProcessGroup(5, 8, 1, 4, is_launched=True)
    assert of({"devices": "auto", "nodes": 2}, small_params, 8) == expected
    assert of({"devices": 4, "nodes": 2}, small_params, 8) == expected
    with pytest.raises(InputError, match=r"machine\.nodes: 4 x 1, but 8 processes were started"):
        of({"devices": 4}, small_params, 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"8 processes were started, 2 on this node; set both"):
        of({"devices": 4, "nodes": 2}, small_params, 8)


def test_rank_from_srun(small_params, monkeypatch: pytest.MonkeyPatch):
    step = {"PROCID": "3", "LOCALID": "1", "STEP_NODELIST": "gpu[07-08]", "JOB_ID": "812345"}
    for name, value in (step | {"STEP_NUM_TASKS": "4"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name in (*NAMES, "GROUP_RANK"):
        monkeypatch.setenv(name, "")  # so that what is set here is undone
        monkeypatch.delenv(name)
    expected = ProcessGroup(3, 4, 1, 2, is_launched=True)
    assert of({"devices": 2, "nodes": 2}, small_params) == expected
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("gpu07", "17345")
    for name in NAMES:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert of({}, small_params).size == 1


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ({"devices": 3}, r"train\.batch_size: 4 volumes cannot be split evenly over 3 devices"),
        ({"strategy": "ddp"}, r"machine\.strategy: ddp requires at least two devices"),
    ],
)
def test_contradictory_settings_are_refused(machine: dict, message: str, small_params):
    with pytest.raises(InputError, match=message):
        of(machine, small_params)


def test_ranks_on_other_nodes_are_not_launched(small_params):
    with pytest.raises(InputError, match=r"machine\.nodes: .* by torchrun or srun"):
        of({"nodes": 2}, small_params)


def test_more_gpus_than_available_are_refused(small_params):
    machine = small_params.machine.model_copy(update={"devices": 64})
    with pytest.raises(
        InputError, match=r"machine\.devices: 64 GPUs are requested, but torch sees"
    ):
        find_rank(machine, torch.device("cuda"), 64)


def test_rank_that_does_not_see_its_gpu_is_refused(small_params, monkeypatch: pytest.MonkeyPatch):
    """As where CUDA_VISIBLE_DEVICES shows each process one alone."""
    for name, value in zip(NAMES, ("64", "128", "64", "head", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    machine = small_params.machine.model_copy(update={"devices": 128})
    with pytest.raises(InputError, match=r"local rank 64 sees \d+ GPUs; let each"):
        find_rank(machine, torch.device("cuda"), 128)


def test_more_devices_than_validation_volumes_are_refused(runner, tmp_path: Path):
    with pytest.raises(InputError, match=r"machine\.devices: 64 devices are more than the \d+ vol"):
        runner.prepare(tmp_path, ranks=ProcessGroup(size=64))


def test_collectives_on_three_ranks():
    texts = ["from 0", "from 1", "from 2"]
    expected = [texts, ("it was asked to", False), (None, True), (None, False), [*range(7)]]
    assert run_on_ranks(3, run_collectives) == [expected] * 3


# Training


@pytest.fixture(scope="session")
def pair(small_params, small_set):
    """Trains on two ranks, with stop requests by rank and changed parameters."""

    def run(
        folder: Path, stops: Mapping = NONE, model: Mapping = NONE, size: int = 2, **changes: object
    ) -> list[object]:
        sections = {
            "model": small_params.model.model_copy(update=dict(model)),
            "train": small_params.train.model_copy(update=changes),
        }
        params = small_params.model_copy(update=sections)
        return run_on_ranks(size, train, params, small_set.root, folder, dict(stops))

    return run


@pytest.fixture(scope="session")
def reference_pair(pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    assert pair(folder) == ["done", "done"]
    return folder


@pytest.mark.slow
def test_interrupted_two_rank_run_ends_with_the_same_bytes(
    pair, runner, reference_pair, tmp_path: Path
):
    for stop in ({1: StopAtCheck(2)}, {0: StopAtCheck(5)}):
        assert pair(tmp_path, stop) == [75, 75]
    assert pair(tmp_path, {1: KillAtCheck(1)}, **ALWAYS)[1] == -signal.SIGKILL
    assert pair(tmp_path, {0: KillAtCheck(3)}, **ALWAYS)[0] == -signal.SIGKILL
    assert pair(tmp_path) == ["done", "done"]
    assert runner.hashes(tmp_path) == runner.hashes(reference_pair)


def test_seeds_differ_by_rank(pair, tmp_path: Path):
    first, second = pair(tmp_path, {0: RecordSeed(), 1: RecordSeed()}, epochs=1)
    assert not set(first) & set(second)


@pytest.mark.slow
def test_two_ranks_match_one(pair, runner, tmp_path: Path):
    """With a backbone whose features of a scan do not depend on its batch."""
    model = VIT | {"dropout": 0.0}
    runner.run(tmp_path / "one", model=model)
    assert pair(tmp_path / "two", model=model) == ["done", "done"]
    one, two = (
        load_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("one", "two")
    )
    for row, other in zip(one["history"], two["history"], strict=True):
        assert other.pop("auroc").keys() == row.pop("auroc").keys()
        assert other == pytest.approx(row, rel=1e-3)
    torch.testing.assert_close(two["state_dict"], one["state_dict"], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_resume_with_another_number_of_devices(
    pair, runner, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    assert pair(tmp_path, {0: StopAtCheck(2)}, batch_size=6) == [75, 75]
    with pytest.raises(Stopped):
        runner.run(tmp_path, stop=StopAtCheck(2), batch_size=6)
    assert "the number of devices was 2 and is 1" in caplog.text
    assert pair(tmp_path, size=3, batch_size=6) == ["done"] * 3
    history = load_checkpoint(tmp_path / "checkpoints/last.ckpt")["history"]
    assert [row["step"] for row in history] == [2, 4, 6]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "batch_size"), [(3, 6), (4, 4)])
def test_exact_resume_on_more_ranks(size: int, batch_size: int, pair, runner, tmp_path: Path):
    """From three ranks on, the order of a sum's terms matters."""
    settings = {"size": size, "batch_size": batch_size, "accumulate_grad_batches": 2}
    assert pair(tmp_path / "reference", **settings) == ["done"] * size
    assert pair(tmp_path / "stopped", {2: StopAtCheck(2)}, **settings) == [75] * size
    killed = pair(tmp_path / "stopped", {1: KillAtCheck(3)}, **settings, **ALWAYS)
    assert killed[1] == -signal.SIGKILL
    assert pair(tmp_path / "stopped", **settings) == ["done"] * size
    assert runner.hashes(tmp_path / "stopped") == runner.hashes(tmp_path / "reference")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ({}, {"accumulate_grad_batches": 2, "oversample_threshold": 0.9}),
        (
            {},
            {
                "augmentation": "advanced",
                "mixup_prob": 0.4,
                "cutmix_prob": 0.4,
                "precision": "bfloat16",
            },
        ),
        ({"finetune": "progressive", "unfreeze_epoch": 1}, {}),
        (VIT | {"finetune": "lora"}, {}),
    ],
    ids=["accumulate_grad_batches", "augmentation", "progressive", "lora"],
)
def test_exact_resume_with_options(model: dict, changes: dict, pair, runner, tmp_path: Path):
    assert pair(tmp_path / "reference", model=model, **changes) == ["done", "done"]
    assert pair(tmp_path / "stopped", {1: StopAtCheck(2)}, model, **changes) == [75, 75]
    killed = pair(tmp_path / "stopped", {0: KillAtCheck(4)}, model, **changes | ALWAYS)
    assert killed[0] == -signal.SIGKILL
    assert pair(tmp_path / "stopped", model=model, **changes) == ["done", "done"]
    assert runner.hashes(tmp_path / "stopped") == runner.hashes(tmp_path / "reference")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [StopAtCheck, KillAtCheck])
def test_exact_resume_after_a_stop_or_kill_of_either_rank_at_any_step(
    kind: type, pair, runner, reference_pair: Path, tmp_path: Path
):
    for check in range(1, 100):
        folder, rank = tmp_path / str(check), check % 2
        outcomes = pair(folder, {rank: kind(check)}, **ALWAYS)
        if outcomes == ["done", "done"]:
            break
        assert outcomes[rank] == (75 if kind is StopAtCheck else -signal.SIGKILL)
        assert pair(folder) == ["done", "done"]
        assert runner.hashes(folder) == runner.hashes(reference_pair), check
    assert check > 3 * 4  # each step and validation


# The train stage as a subprocess


def ranks_of(process) -> list[psutil.Process]:
    """Processes of the ranks that a run launched, by rank."""
    children = psutil.Process(process.pid).children()
    return sorted(children, key=lambda child: int(child.environ()["RANK"]))


@pytest.mark.slow
@pytest.mark.drill
def test_exact_resume_after_signals_to_any_process(projects):
    """To either rank, and to the process that launched them (None)."""
    whole, ended = projects("whole"), projects("a folder, mit Umlaut ü")
    assert whole.run()[0] == 0
    for number, rank in [*product((signal.SIGKILL, signal.SIGTERM), (1, 0, None))]:
        process = ended.start()
        ended.wait_for_save(process)
        ranks = ranks_of(process)
        assert len(ranks) == 2
        target = process if rank is None else ranks[rank]
        target.send_signal(number)
        output = process.communicate(timeout=900)[1]
        _, left = psutil.wait_procs(ranks, timeout=300)
        assert not left
        assert "Traceback" not in output
        if number == signal.SIGTERM:
            assert process.returncode == 75, output
            assert output.count("stopped, since it received SIGTERM") == 1
        elif rank is None:
            assert process.returncode == -9, output
        else:
            assert process.returncode == 1, output
            assert f"rank {rank} was killed by SIGKILL" in output
        (ended.root / "checkpoints/previous.ckpt").unlink()
    process = ended.start()
    ended.wait_for_save(process)
    os.killpg(process.pid, signal.SIGINT)  # as from a terminal
    output = process.communicate(timeout=900)[1]
    assert process.returncode == 75, output
    ended.change("machine", workers=1)
    code, output = ended.run()
    assert code == 0, output
    assert "resuming from checkpoints/last.ckpt: epoch" in output
    assert ended.content() == whole.content()


@pytest.mark.slow
def test_torchrun_and_srun_give_the_same_bytes(projects):
    own = projects("own", epochs=2)
    assert own.run()[0] == 0
    torchrun = projects("torchrun", epochs=2)
    code, output = torchrun.run(TORCHRUN)
    assert code == 0, output
    assert torchrun.content() == own.content()
    srun = projects("srun", epochs=2)
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": "1"}
    step |= {"MASTER_PORT": str(free_port())}
    tasks = [srun.start(SLURM_PROCID=rank, SLURM_LOCALID=rank, **step) for rank in "01"]
    for task in tasks:
        output = task.communicate()[1]
        assert task.returncode == 0, output
    assert srun.content() == own.content()


@pytest.mark.slow
def test_error_is_reported_once_and_ends_all_ranks(projects):
    project = projects("one", learning_rate=1e30)
    code, output = project.run()
    assert code == 1
    assert output.count("error: the loss is nan at epoch 0") == 1
    assert "Traceback" not in output


@pytest.mark.slow
def test_ranks_with_different_fingerprints_are_refused(projects):
    first, second = projects("first"), projects("second", learning_rate=1e-2)
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    tasks = [
        project.start(RANK=rank, LOCAL_RANK=rank, **variables)
        for rank, project in (("0", first), ("1", second))
    ]
    output = tasks[0].communicate()[1]
    assert [task.wait() for task in tasks] == [1, 1]
    assert "rank 1 and rank 0 would train different runs: train.learning_rate" in output
