"""Training on a small set, whole runs."""

from pathlib import Path
from shutil import copytree

import pytest
import torch

from multi_abnormality.errors import InputError
from multi_abnormality.stages.train import summarize
from multi_abnormality.training.files import load_checkpoint
from multi_abnormality.training.stopping import Stopped
from stops import StopAtLook


def test_leaves_the_promised_files(straight: Path):
    names = {path.name for path in (straight / "checkpoints").iterdir()}
    kept = {name for name in names if name.startswith("multi_abnormality-epoch=01-val_loss=")}
    assert names == {"best.ckpt", "last.ckpt"} | kept
    assert len(kept) == 1
    assert len((straight / "history.csv").read_text().splitlines()) == 1 + 3


def test_same_bytes_in_another_folder_with_other_workers(trainings, straight: Path, tmp_path: Path):
    trainings.run(tmp_path, machine={"workers": 2})
    assert trainings.hashes(tmp_path) == trainings.hashes(straight)


def test_raised_epochs_end_as_a_straight_run(trainings, straight: Path, tmp_path: Path):
    trainings.run(tmp_path, epochs=1)
    trainings.run(tmp_path)
    assert trainings.hashes(tmp_path) == trainings.hashes(straight)


def test_raised_patience_ends_as_a_straight_run(trainings, tmp_path: Path):
    settings = {"epochs": 8, "learning_rate": 1e-5}
    first = trainings.run(tmp_path / "raised", early_stopping_patience=1, **settings)
    assert len(first.epochs) < 8
    assert summarize(first, 8)["stopped_early"] is True
    assert summarize(first, len(first.epochs))["stopped_early"] is False
    for name in ("raised", "straight"):
        trainings.run(tmp_path / name, early_stopping_patience=8, **settings)
    assert trainings.hashes(tmp_path / "raised") == trainings.hashes(tmp_path / "straight")


def test_a_fast_run_goes_through_everything_and_is_no_training(trainings, straight, tmp_path):
    copytree(straight / "checkpoints", tmp_path / "checkpoints")
    history = trainings.run(tmp_path, debug="fast", epochs=90, model={"unfreeze_epoch": 50})
    assert [epoch.epoch for epoch in history.epochs] == [0, 1]
    trainings.run(tmp_path)
    assert trainings.hashes(tmp_path) == trainings.hashes(straight)


def test_few_scans_can_be_learned_by_heart(trainings, tmp_path: Path):
    history = trainings.run(tmp_path, debug="overfit", batch_size=8)
    first, last = history.epochs[0], history.epochs[-1]
    assert last.train_loss < 0.1 * first.train_loss
    assert last.val_auroc > 0.99


@pytest.mark.slow
@pytest.mark.drill
def test_a_compiled_training_resumes_to_the_byte(trainings, tmp_path: Path):
    trainings.run(tmp_path / "straight", compile=True, epochs=2)
    with pytest.raises(Stopped):
        trainings.run(tmp_path / "stopped", StopAtLook(5), compile=True, epochs=2)
    trainings.run(tmp_path / "stopped", compile=True, epochs=2)
    assert trainings.hashes(tmp_path / "stopped") == trainings.hashes(tmp_path / "straight")


def test_a_machine_that_cannot_compile_is_told(trainings, tmp_path: Path):
    torch._dynamo.reset()
    bare = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    told = pytest.raises(InputError, match=r"train\.compile: torch cannot compile here.*set it to")
    with torch._inductor.config.patch(bare), told:
        trainings.run(tmp_path, compile=True, epochs=1)


def test_a_loss_that_is_no_number_stops_the_run(trainings, tmp_path: Path):
    with pytest.raises(InputError, match=r"nan at epoch 0, .* on train_\d+_a_\d, .*learning_rate"):
        trainings.run(tmp_path, learning_rate=1e30)


def test_a_model_that_ends_an_epoch_in_no_numbers_is_never_saved(trainings, tmp_path: Path):
    with pytest.raises(InputError, match=r"no finite logits in the validation of epoch 0.*rate"):
        trainings.run(tmp_path, learning_rate=1e30, batch_size=8, epochs=1)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_finished_training_is_not_repeated(trainings, tmp_path: Path, caplog):
    trainings.run(tmp_path, epochs=1)
    before = trainings.hashes(tmp_path)
    caplog.set_level("INFO")
    trainings.run(tmp_path, epochs=1)
    assert "nothing is left to do" in caplog.text
    assert trainings.hashes(tmp_path) == before


def test_an_epochs_last_step_of_fewer_batches_is_their_mean(trainings, tmp_path: Path):
    """14 scans, 7 batches of 2: all in one step, whether 7 or 20 may be."""
    trainings.run(tmp_path / "7", batch_size=2, accumulate=7, epochs=1)
    trainings.run(tmp_path / "20", batch_size=2, accumulate=20, epochs=1)
    few, many = (
        load_checkpoint(tmp_path / name / "checkpoints/last.ckpt")["optimizer_states"][0]["state"]
        for name in ("7", "20")
    )
    for number, state in few.items():
        torch.testing.assert_close(many[number]["exp_avg"], state["exp_avg"])


def test_gradients_are_clipped_to_their_norm(trainings, tmp_path: Path):
    norms = []
    for limit in (1e9, 1e-3):
        folder = tmp_path / str(limit)
        trainings.run(folder, clip_norm=limit, epochs=1)
        state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
        moments = [each["exp_avg"] for each in state["optimizer_states"][0]["state"].values()]
        norms.append(torch.nn.utils.get_total_norm(moments).item())
    assert norms[0] > 1e-2
    assert 1e-4 < norms[1] <= 1e-3  # a mean of vectors no longer than that, and of one of zeros


def test_too_few_volumes_for_a_batch(trainings, tmp_path: Path):
    with pytest.raises(InputError, match=r"train\.batch_size: 100 is more than the \d+ scans"):
        trainings.run(tmp_path, batch_size=100)
