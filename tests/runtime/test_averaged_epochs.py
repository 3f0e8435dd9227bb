"""Averaging of the best epochs' weights at the end of training."""

import shutil
import signal
from pathlib import Path

import pytest
import torch

from multi_abnormality.runtime.checkpoint_io import load_checkpoint
from multi_abnormality.stages.train import summarize
from rank_tasks import KillAtCheck, RecordSeed, run_on_ranks, train
from stops import StopAtCheck

AVERAGE = {"average_best": 3, "epochs": 4, "save_every_n_epochs": 1}
LORA = {"backbone": "test_vit", "multiscale": False, "finetune": "lora"}
FROZEN = {"finetune": "frozen"}


def read(folder: Path, name: str) -> dict:
    return load_checkpoint(folder / "checkpoints" / name)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory, runner) -> Path:
    """Directory of an uninterrupted run. Read-only."""
    folder = tmp_path_factory.mktemp("averaged")
    runner.run(folder, **AVERAGE)
    return folder


def test_best_checkpoint_has_the_mean_of_the_best_epochs(averaged: Path):
    best, last = (read(averaged, name) for name in ("best.ckpt", "last.ckpt"))
    ranked = sorted(last["history"], key=lambda row: (-row["val_auroc"], row["epoch"]))
    chosen = ranked[: len(best["average"]["epochs"])]
    assert len(chosen) > 1
    assert best["average"]["epochs"] == [row["epoch"] for row in chosen]
    assert best["average"]["val_auroc"] >= ranked[0]["val_auroc"]
    assert best["position"] == {"epoch": ranked[0]["epoch"] + 1, "batch": 0}
    states = [
        read(averaged, "multi_abnormality-epoch={epoch:02d}-val_loss={val_loss:.3f}.ckpt".format(
            **row
        ))["state_dict"]
        for row in chosen
    ]  # fmt: skip
    for name, weight in best["state_dict"].items():
        values = torch.stack([state[name].double() for state in states])
        expected = values.mean(dim=0) if weight.is_floating_point() else values[0]
        torch.testing.assert_close(weight.double(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_kills_around_averaging_end_with_the_same_bytes(
    size: int, runner, small_params, small_set, tmp_path: Path
):
    def run(name: str, stop: object, **changes: object) -> object:
        settings = small_params.train.model_copy(update=AVERAGE | changes)
        params = small_params.model_copy(update={"train": settings})
        stops = {size - 1: stop}
        outcomes = run_on_ranks(size, train, params, small_set.root, tmp_path / name, stops)
        return outcomes[-1]

    in_training = 1 + len(run("default", RecordSeed(), average_best=1))
    in_all = 1 + len(run("reference", RecordSeed()))
    assert in_all > in_training + 1
    assert run("killed", KillAtCheck(in_training - 1)) == -signal.SIGKILL  # before the last save
    assert run("killed", KillAtCheck(0)) == -signal.SIGKILL
    assert run("averaging", KillAtCheck(in_training)) == -signal.SIGKILL
    for check in range(in_all - in_training):
        stop = StopAtCheck(check) if check % 2 else KillAtCheck(check)
        assert run("averaging", stop) == (75 if check % 2 else -signal.SIGKILL)
    assert "average" not in read(tmp_path / "averaging", "best.ckpt")
    shutil.copytree(tmp_path / "averaging", tmp_path / "between")  # of the last two writes
    shutil.copy(tmp_path / "reference/checkpoints/best.ckpt", tmp_path / "between/checkpoints")
    for name in ("killed", "averaging", "between"):
        run(name, RecordSeed())
        assert runner.hashes(tmp_path / name) == runner.hashes(tmp_path / "reference"), name


@pytest.mark.parametrize("lost", ["", "last.ckpt", "best.ckpt"])
def test_raised_epochs_continue_from_the_weights_of_training(
    lost: str, averaged: Path, runner, tmp_path: Path
):
    """best.ckpt of the shorter run holds an average, which must not be trained further."""
    history = runner.run(tmp_path, **AVERAGE | {"epochs": 2})
    assert history.best.epoch == 1  # so that best.ckpt may replace last.ckpt
    if lost:
        (tmp_path / "checkpoints" / lost).unlink()
        shutil.rmtree(tmp_path / "archive")
        for path in (tmp_path / "checkpoints").glob("*epoch=01*"):
            path.unlink()
    runner.run(tmp_path, **AVERAGE)
    assert runner.hashes(tmp_path) == runner.hashes(averaged)


@pytest.mark.parametrize("lost", ["last.ckpt", "best.ckpt"])
def test_lost_checkpoint_of_a_finished_run_is_restored(
    lost: str, averaged: Path, runner, tmp_path: Path
):
    shutil.copytree(averaged / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / lost).unlink()
    runner.run(tmp_path, **AVERAGE)
    assert runner.hashes(tmp_path) == runner.hashes(averaged)


def test_fewer_epochs_average_only_those(averaged: Path, runner, tmp_path: Path):
    shutil.copytree(averaged / "checkpoints", tmp_path / "fewer/checkpoints")
    for name in ("fewer", "reference"):
        runner.run(tmp_path / name, **AVERAGE | {"epochs": 2})
    assert runner.hashes(tmp_path / "fewer") == runner.hashes(tmp_path / "reference")


@pytest.mark.parametrize(
    ("model", "changes"),
    [(LORA, {}), (FROZEN, {"augmentation": "none", "cache_features": "required"})],
    ids=["lora", "cached features"],
)
def test_constant_weights_stay_exactly_the_same(model: dict, changes: dict, runner, tmp_path: Path):
    runner.run(tmp_path, model=model, **AVERAGE | {"epochs": 2} | changes)
    best = read(tmp_path, "best.ckpt")["state_dict"]
    first, second = read(tmp_path, "last.ckpt")["best_epochs"].values()
    constant = [name for name, weight in first.items() if torch.equal(weight, second[name])]
    assert any("encoder" in name for name in constant)
    assert len(constant) < len(best)
    for name in constant:
        assert torch.equal(best[name], first[name]), name


def test_default_keeps_no_further_state(reference: Path, runner, tmp_path: Path):
    best, last = (read(reference, name) for name in ("best.ckpt", "last.ckpt"))
    assert not {"best_epochs", "average"} & (best.keys() | last.keys())
    assert "average_best" not in best["about"]["identity"]["train"]
    shutil.copytree(reference / "checkpoints", tmp_path / "checkpoints")
    training = runner.prepare(tmp_path)
    summary = summarize(training.run(), 3, training.average)
    assert list(summary) == ["epochs", "stopped_early", "best_epoch", "val_auroc", "val_loss"]


def test_another_number_of_epochs_to_average_starts_a_new_run(
    averaged: Path, runner, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    shutil.copytree(averaged / "checkpoints", tmp_path / "checkpoints")
    assert runner.prepare(tmp_path, **AVERAGE | {"average_best": 2}).checkpoint is None
    assert "train.average_best: 3, now 2" in caplog.text
