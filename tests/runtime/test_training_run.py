"""Whole training runs on a small dataset."""

from pathlib import Path
from shutil import copytree

import pytest
import torch

from multi_abnormality.runtime import training_run
from multi_abnormality.runtime.checkpoint_io import load_checkpoint
from multi_abnormality.runtime.graceful_stop import Stopped
from multi_abnormality.stages.train import summarize
from multi_abnormality.training import training_step
from multi_abnormality.utils.errors import InputError
from stops import StopAtCheck


def test_writes_the_expected_files(reference: Path):
    names = {path.name for path in (reference / "checkpoints").iterdir()}
    kept = {name for name in names if name.startswith("multi_abnormality-epoch=01-val_loss=")}
    assert names == {"best.ckpt", "last.ckpt"} | kept
    assert len(kept) == 1
    assert len((reference / "history.csv").read_text().splitlines()) == 1 + 3


def test_same_bytes_in_another_directory_with_other_workers(
    runner, reference: Path, tmp_path: Path
):
    runner.run(tmp_path, machine={"workers": 2})
    assert runner.hashes(tmp_path) == runner.hashes(reference)


def test_a_finished_run_keeps_its_bytes_in_another_environment(
    runner, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copytree(reference / "checkpoints", tmp_path / "checkpoints")
    environment = training_run.environment
    other = {"processor": "another"}
    monkeypatch.setattr(training_run, "environment", lambda *args: environment(*args) | other)
    runner.run(tmp_path)
    assert runner.hashes(tmp_path) == runner.hashes(reference)


def test_a_run_continues_where_automatic_precision_is_float16(
    runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runner.run(tmp_path, epochs=1)
    monkeypatch.setattr(training_run, "resolve_precision", lambda *_: "float16")
    assert len(runner.run(tmp_path, epochs=2).epochs) == 2


def test_raised_epochs_end_with_the_same_bytes(runner, reference: Path, tmp_path: Path):
    runner.run(tmp_path, epochs=1)
    runner.run(tmp_path)
    assert runner.hashes(tmp_path) == runner.hashes(reference)


def test_raised_patience_ends_with_the_same_bytes(runner, tmp_path: Path):
    settings = {"epochs": 8, "learning_rate": 1e-5}
    first = runner.run(tmp_path / "raised", early_stopping_patience=1, **settings)
    assert len(first.epochs) < 8
    assert summarize(first, 8)["stopped_early"] is True
    assert summarize(first, len(first.epochs))["stopped_early"] is False
    for name in ("raised", "reference"):
        runner.run(tmp_path / name, early_stopping_patience=8, **settings)
    assert runner.hashes(tmp_path / "raised") == runner.hashes(tmp_path / "reference")


def test_fast_dev_run_trains_two_epochs_and_is_not_resumed(runner, reference, tmp_path):
    copytree(reference / "checkpoints", tmp_path / "checkpoints")
    history = runner.run(tmp_path, debug="fast_dev_run", epochs=90, model={"unfreeze_epoch": 50})
    assert [epoch.epoch for epoch in history.epochs] == [0, 1]
    runner.run(tmp_path)
    assert runner.hashes(tmp_path) == runner.hashes(reference)


@pytest.mark.slow
def test_overfit_batches_overfits(runner, tmp_path: Path):
    history = runner.run(tmp_path, debug="overfit_batches", batch_size=8)
    first, last = history.epochs[0], history.epochs[-1]
    assert last.train_loss < 0.2 * first.train_loss
    assert last.val_auroc > 0.99


@pytest.mark.slow
@pytest.mark.drill
def test_exact_resume_of_a_compiled_model(runner, tmp_path: Path):
    runner.run(tmp_path / "reference", compile=True, epochs=2)
    with pytest.raises(Stopped):
        runner.run(tmp_path / "stopped", StopAtCheck(5), compile=True, epochs=2)
    runner.run(tmp_path / "stopped", compile=True, epochs=2)
    assert runner.hashes(tmp_path / "stopped") == runner.hashes(tmp_path / "reference")


@pytest.mark.slow
def test_failing_compiler_is_reported(runner, tmp_path: Path):
    torch._dynamo.reset()
    bare = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    message = r"train\.compile: torch cannot compile here.*set it to"
    with torch._inductor.config.patch(bare), pytest.raises(InputError, match=message):
        runner.run(tmp_path, compile=True, epochs=1)


def test_non_finite_loss_stops_the_run(runner, tmp_path: Path):
    with pytest.raises(InputError, match=r"nan at epoch 0, .* on train_\d+_a_\d, .*learning_rate"):
        runner.run(tmp_path, learning_rate=1e30)


@pytest.mark.parametrize("share", [1, 0.5])
def test_float16_that_always_overflows_stops_the_run(
    share: float, runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Only a GPU may train in float16, but its loss scaler works on a CPU, too."""
    monkeypatch.setattr(training_step, "MAX_OVERFLOWS", 5)
    training = runner.prepare(tmp_path)
    training._precision = "float16"
    build, numbers = training._build, iter(range(1, 1000))

    def overflowing():
        model = build()
        parameter = next(model.parameters())
        parameter.register_hook(lambda grad: grad / 0 if next(numbers) * share % 1 == 0 else grad)
        return model

    training._build = overflowing
    if share < 1:  # the scaler skips these steps
        training.run()
        return
    with pytest.raises(InputError, match=r"gradients of 6 steps in a row, which float16 skipped"):
        training.run()
    assert not list((tmp_path / "checkpoints").glob("best*"))


def test_model_with_non_finite_logits_is_never_saved(runner, tmp_path: Path):
    with pytest.raises(InputError, match=r"no finite logits in the validation of epoch 0.*rate"):
        runner.run(tmp_path, learning_rate=1e30, batch_size=8, epochs=1)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_finished_run_is_not_repeated(runner, tmp_path: Path, caplog):
    runner.run(tmp_path, epochs=1)
    before = runner.hashes(tmp_path)
    caplog.set_level("INFO")
    runner.run(tmp_path, epochs=1)
    assert "is of a finished training; nothing to do" in caplog.text
    assert runner.hashes(tmp_path) == before


def test_last_accumulation_of_an_epoch_averages_its_batches(runner, tmp_path: Path):
    """14 scans, 7 batches of 2: all in one step, whether 7 or 20 may be."""
    runner.run(tmp_path / "7", batch_size=2, accumulate_grad_batches=7, epochs=1)
    runner.run(tmp_path / "20", batch_size=2, accumulate_grad_batches=20, epochs=1)
    few, many = (
        load_checkpoint(tmp_path / name / "checkpoints/last.ckpt")["optimizer"]["state"]
        for name in ("7", "20")
    )
    for number, state in few.items():
        torch.testing.assert_close(many[number]["exp_avg"], state["exp_avg"])


def test_gradients_are_clipped_by_norm(runner, tmp_path: Path):
    norms = []
    for limit in (1e9, 1e-3):
        folder = tmp_path / str(limit)
        runner.run(folder, max_grad_norm=limit, epochs=1)
        state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
        moments = [each["exp_avg"] for each in state["optimizer"]["state"].values()]
        norms.append(torch.nn.utils.get_total_norm(moments).item())
    assert norms[0] > 1e-2
    assert 1e-4 < norms[1] <= 1e-3  # a mean of vectors no longer than that, and of one of zeros


def test_batch_larger_than_the_training_set_is_refused(runner, tmp_path: Path):
    with pytest.raises(InputError, match=r"train\.batch_size: 100 is more than the \d+ scans"):
        runner.run(tmp_path, batch_size=100)
