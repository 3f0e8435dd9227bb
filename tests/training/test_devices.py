"""One training by several processes, each with a device; here CPUs, over gloo on loopback."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import psutil
import pytest
import torch

from multi_abnormality.data.drawn import DrawnVolumes, drawn_loader
from multi_abnormality.errors import InputError
from multi_abnormality.training import link
from multi_abnormality.training.files import load_checkpoint
from multi_abnormality.training.link import Ending, Link
from multi_abnormality.training.place import NAMES, Place, find_place
from multi_abnormality.training.ranks import Ranks
from multi_abnormality.training.stopping import Stopped
from rank_tasks import (
    KillAtLook,
    NoteSeed,
    free_port,
    lose,
    lose_first_as_they_meet,
    together,
    train,
    use_all,
)
from stops import StopAtLook
from train_stage import TRAIN, Project

ALWAYS = {"save_every_n_minutes": 1e-9}  # a save after every step
CPU = torch.device("cpu")
NONE = MappingProxyType({})
VIT = {"backbone": "test_vit", "multiscale": False}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *TRAIN[1:]]


@pytest.fixture
def projects(tmp_path: Path, small_params, small_set):
    """Makes projects that train on two devices for a few seconds."""

    def make(name: str, **train: object) -> Project:
        project = Project(tmp_path / name, small_params, small_set)
        often = {"early_stopping_patience": 20, "save_every_n_minutes": 1e-9}
        project.change("train", **{"epochs": 8} | often | train)
        project.change("machine", devices=2)
        return project

    return make


# Which share of the work a process gets


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_batchs_shares_are_the_batch(ranks: int, small_set, small_params):
    names = small_set.volumes("train")["name"].tolist()
    volumes = DrawnVolumes(small_set, names, small_params.train, seed=0)

    def batches(batch: int, rank: int = 0, ranks: int = 1) -> list[list[str]]:
        loader = drawn_loader(volumes, 4, 0, 3, batch, rank, ranks)
        assert len(loader) == len(volumes) // 4
        return [found["name"] for found in loader]

    whole = batches(0)
    assert len({name for names in whole for name in names}) == len(volumes) // 4 * 4
    for first in (0, 2):
        shares = zip(*(batches(first, rank, ranks) for rank in range(ranks)), strict=True)
        assert [[*chain(*parts)] for parts in shares] == whole[first:]


def of(machine: dict, small_params, batch_size: int = 4) -> Place:
    settings = small_params.machine.model_copy(update=machine)
    return find_place(settings, CPU, batch_size)


def test_alone_by_default(small_params):
    assert of({}, small_params) == Place()
    assert of({"devices": "auto"}, small_params) == Place()
    assert of({"devices": 4, "strategy": "ddp"}, small_params).size == 4


def test_a_place_that_torchrun_gives(small_params, monkeypatch: pytest.MonkeyPatch):
    for name, value in zip(NAMES, ("5", "8", "1", "head", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    expected = Place(5, 8, 1, 4, "head", 29500, is_started=True)
    assert of({"devices": "auto", "nodes": 2}, small_params, 8) == expected
    assert of({"devices": 4, "nodes": 2}, small_params, 8) == expected
    with pytest.raises(InputError, match=r"machine\.nodes: 4 x 1, but 8 processes were started"):
        of({"devices": 4}, small_params, 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"8 processes were started, 2 on this node; set both"):
        of({"devices": 4, "nodes": 2}, small_params, 8)


def test_a_place_that_srun_gives(small_params, monkeypatch: pytest.MonkeyPatch):
    told = {"PROCID": "3", "LOCALID": "1", "STEP_NODELIST": "gpu[07-08]", "JOB_ID": "812345"}
    for name, value in (told | {"STEP_NUM_TASKS": "4"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    expected = Place(3, 4, 1, 2, "gpu07", 17345, is_started=True)
    assert of({"devices": 2, "nodes": 2}, small_params) == expected
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert of({}, small_params) == Place()


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ({"devices": 3}, r"train\.batch_size: 4 volumes cannot be split evenly over 3 devices"),
        ({"strategy": "ddp"}, r"machine\.strategy: ddp takes two devices or more"),
    ],
)
def test_what_does_not_go_together(machine: dict, message: str, small_params):
    with pytest.raises(InputError, match=message):
        of(machine, small_params)


def test_other_nodes_are_none_of_ours_to_start(trainings, tmp_path: Path):
    ranks = Ranks(Place(size=2, local_size=1))
    with pytest.raises(InputError, match=r"machine\.nodes: .* by torchrun or srun"):
        trainings.prepare(tmp_path, ranks=ranks).run()


def test_more_gpus_than_there_are(small_params):
    machine = small_params.machine.model_copy(update={"devices": 64})
    with pytest.raises(InputError, match=r"machine\.devices: 64 GPUs are wanted, and torch sees"):
        find_place(machine, torch.device("cuda"), 64)


def test_a_process_that_does_not_see_its_gpu(small_params, monkeypatch: pytest.MonkeyPatch):
    """As where CUDA_VISIBLE_DEVICES shows each process one alone."""
    for name, value in zip(NAMES, ("64", "128", "64", "head", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    machine = small_params.machine.model_copy(update={"devices": 128})
    with pytest.raises(InputError, match=r"process 64 of this node sees \d+ GPUs; let each"):
        find_place(machine, torch.device("cuda"), 128)


def test_too_few_volumes_to_validate_on(trainings, tmp_path: Path):
    with pytest.raises(InputError, match=r"machine\.devices: 64 devices are more than the \d+ vol"):
        trainings.prepare(tmp_path, ranks=Ranks(Place(size=64)))


# What they do together


def test_three_processes_come_to_the_same():
    expected = ["from 0", [0, 1 / 3, 2 / 3], "it was asked to", None, [[1], [3]], [*range(7)]]
    assert together(3, use_all) == [expected] * 3


@pytest.mark.parametrize("lost", [0, 2])
def test_who_waits_for_a_process_that_is_gone_ends(lost: int):
    outcomes = together(3, lose, lost)
    assert outcomes[lost] == -signal.SIGKILL
    told = [outcome for outcome in outcomes if isinstance(outcome, str)]  # who is given up is mute
    assert len(told) == (1 if lost else 2)  # process 0 tells, where it is there
    assert all(f"process {lost} of this training ended without a word" in text for text in told)


def test_who_meets_with_a_process_that_is_gone_ends():
    outcomes = together(3, use_all, before=lose_first_as_they_meet)
    assert outcomes[0] == -signal.SIGKILL
    assert all("process 0 of this training ended without a word" in told for told in outcomes[1:])


def test_a_process_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """As one in a GPU's collective operation, which no broken connection ends."""
    monkeypatch.setattr(link, "PATIENCE", 0.1)
    here, there = socket.socketpair(socket.AF_UNIX)
    ended, endings = threading.Event(), []
    Link(1, {0: here}, lambda ending: (endings.append(ending), ended.set()))
    there.close()
    assert ended.wait(10)
    assert endings == [Ending(0, None)]


# Training


@pytest.fixture(scope="session")
def pair(small_params, small_set):
    """Trains in two processes, with stops by their ranks and other parameters."""

    def run(
        folder: Path, stops: Mapping = NONE, model: Mapping = NONE, **changes: object
    ) -> list[object]:
        sections = {
            "model": small_params.model.model_copy(update=dict(model)),
            "train": small_params.train.model_copy(update=changes),
        }
        params = small_params.model_copy(update=sections)
        return together(2, train, params, small_set.root, folder, dict(stops))

    return run


@pytest.fixture(scope="session")
def straight_pair(pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    assert pair(folder) == ["done", "done"]
    return folder


def test_two_processes_end_as_two_processes_did(pair, trainings, straight_pair, tmp_path: Path):
    for stop in ({1: StopAtLook(2)}, {0: StopAtLook(5)}):
        assert pair(tmp_path, stop) == [75, 75]
    assert pair(tmp_path, {1: KillAtLook(1)}, **ALWAYS)[1] == -signal.SIGKILL
    assert pair(tmp_path, {0: KillAtLook(3)}, **ALWAYS)[0] == -signal.SIGKILL
    assert pair(tmp_path) == ["done", "done"]
    assert trainings.hashes(tmp_path) == trainings.hashes(straight_pair)


def test_each_draws_for_itself_and_the_same_each_time(pair, tmp_path: Path):
    def seeds(folder: str) -> list[object]:
        return pair(tmp_path / folder, {0: NoteSeed(), 1: NoteSeed()}, epochs=1)

    first, second = seeds("first")
    assert not set(first) & set(second)
    assert seeds("again") == [first, second]


def test_two_processes_train_as_one(pair, trainings, tmp_path: Path):
    """On a backbone whose features of a scan do not depend on the batch it is in."""
    model = VIT | {"dropout": 0.0}
    trainings.run(tmp_path / "one", model=model)
    assert pair(tmp_path / "two", model=model) == ["done", "done"]
    one, two = (
        load_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("one", "two")
    )
    for row, other in zip(one["history"], two["history"], strict=True):
        assert other == pytest.approx(row, rel=1e-3)
    torch.testing.assert_close(two["state_dict"], one["state_dict"], rtol=1e-3, atol=1e-4)


def test_it_goes_on_with_another_number_of_devices(
    pair, trainings, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    assert pair(tmp_path, {0: StopAtLook(2)}) == [75, 75]
    with pytest.raises(Stopped):
        trainings.run(tmp_path, stop=StopAtLook(2))
    assert "the number of devices was 2 and is 1" in caplog.text
    assert pair(tmp_path) == ["done", "done"]
    history = load_checkpoint(tmp_path / "checkpoints/last.ckpt")["history"]
    assert [row["step"] for row in history] == [3, 6, 9]


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ({}, {"accumulate": 2}),
        ({}, {"augmentation": "advanced", "mixup": 0.4, "cutmix": 0.4, "precision": "bfloat16"}),
        ({"finetune": "progressive", "unfreeze_epoch": 1}, {}),
        (VIT | {"finetune": "lora"}, {}),
    ],
    ids=["accumulate", "augmentation", "progressive", "lora"],
)
def test_every_way_to_train_goes_on_exactly(
    model: dict, changes: dict, pair, trainings, tmp_path: Path
):
    assert pair(tmp_path / "straight", model=model, **changes) == ["done", "done"]
    assert pair(tmp_path / "stopped", {1: StopAtLook(2)}, model, **changes) == [75, 75]
    killed = pair(tmp_path / "stopped", {0: KillAtLook(4)}, model, **changes | ALWAYS)
    assert killed[0] == -signal.SIGKILL
    assert pair(tmp_path / "stopped", model=model, **changes) == ["done", "done"]
    assert trainings.hashes(tmp_path / "stopped") == trainings.hashes(tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [StopAtLook, KillAtLook])
def test_a_stop_or_kill_of_either_at_any_moment(
    kind: type, pair, trainings, straight_pair: Path, tmp_path: Path
):
    for look in range(1, 100):
        folder, rank = tmp_path / str(look), look % 2
        outcomes = pair(folder, {rank: kind(look)}, **ALWAYS)
        if outcomes == ["done", "done"]:
            break
        assert outcomes[rank] == (75 if kind is StopAtLook else -signal.SIGKILL)
        assert pair(folder) == ["done", "done"]
        assert trainings.hashes(folder) == trainings.hashes(straight_pair), look
    assert look > 3 * 4  # each step and validation


# The train stage, as processes of its own


def ranks_of(process) -> list[psutil.Process]:
    """The processes of a training that has started others, by rank."""
    first = psutil.Process(process.pid)
    others = [child for child in first.children() if "RANK" in child.environ()]
    return [first, *sorted(others, key=lambda other: int(other.environ()["RANK"]))]


@pytest.mark.slow
@pytest.mark.drill
def test_whichever_process_ends_all_do_and_nothing_is_lost(projects):
    whole, ended = projects("whole"), projects("a folder, mit Umlaut ü")
    assert whole.run()[0] == 0
    cases = [(signal.SIGKILL, 1), (signal.SIGKILL, 0), (signal.SIGTERM, 1), (signal.SIGTERM, 0)]
    for number, rank in cases:
        process = ended.start()
        ended.wait_for_save(process)
        processes = ranks_of(process)
        assert len(processes) == 2
        processes[rank].send_signal(number)
        output = process.communicate(timeout=300)[1]
        psutil.wait_procs(processes, timeout=60)
        assert not any(one.is_running() for one in processes)
        assert "Traceback" not in output
        if number == signal.SIGTERM:
            assert process.returncode == 75, output
            assert output.count("stopped, since it received SIGTERM") == 1
        else:
            assert process.returncode == (1 if rank else -9), output
            assert f"process {rank} of this training ended without a word" in output
        (ended.root / "checkpoints/previous.ckpt").unlink()
    process = ended.start()
    ended.wait_for_save(process)
    os.killpg(process.pid, signal.SIGINT)  # as from a terminal
    output = process.communicate(timeout=300)[1]
    assert process.returncode == 75, output
    ended.change("machine", workers=1)
    code, output = ended.run()
    assert code == 0, output
    assert "resuming from checkpoints/last.ckpt: epoch" in output
    assert ended.content() == whole.content()


@pytest.mark.slow
def test_torchrun_and_srun_start_the_same_training(projects):
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


def test_an_error_is_told_once_and_ends_all(projects):
    project = projects("one", learning_rate=1e30)
    code, output = project.run()
    assert code == 1
    assert output.count("error: the loss is nan at epoch 0") == 1
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_process_that_would_train_something_else_is_told_of(projects):
    first, second = projects("first"), projects("second", learning_rate=1e-2)
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    tasks = [
        project.start(RANK=rank, LOCAL_RANK=rank, **told)
        for rank, project in (("0", first), ("1", second))
    ]
    output = tasks[0].communicate()[1]
    assert [task.wait() for task in tasks] == [1, 1]
    assert "process 1 would train something else than process 0: train.learning_rate" in output
