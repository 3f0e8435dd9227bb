"""Training on a small set, whole runs."""

import hashlib
from pathlib import Path

import pytest
import torch

from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.errors import InputError
from multi_abnormality.params import Params
from multi_abnormality.training.checkpoints import load_complete, newest
from multi_abnormality.training.files import load_checkpoint, save_checkpoint
from multi_abnormality.training.fit import Places, fit


def places(folder: Path) -> Places:
    return Places(
        folder / "checkpoints", folder / "logs", folder / "history.csv", folder / "unfinished"
    )


def with_train(params: Params, **changes: object) -> Params:
    return params.model_copy(update={"train": params.train.model_copy(update=changes)})


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.c*"))
    }


@pytest.fixture(scope="module")
def straight(
    tmp_path_factory: pytest.TempPathFactory, small_params: Params, small_set: ProcessedSet
) -> Path:
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("straight")
    fit(small_params, small_set, places(folder))
    return folder


def test_leaves_the_promised_files(straight: Path):
    names = {path.name for path in (straight / "checkpoints").iterdir()}
    kept = {name for name in names if name.startswith("multi_abnormality-epoch=01-val_loss=")}
    assert names == {"best.ckpt", "last.ckpt"} | kept
    assert len(kept) == 1
    assert len((straight / "history.csv").read_text().splitlines()) == 1 + 3


def test_same_bytes_in_another_folder_with_other_workers(
    straight: Path, tmp_path: Path, small_params: Params, small_set: ProcessedSet
):
    machine = small_params.machine.model_copy(update={"workers": 2})
    fit(small_params.model_copy(update={"machine": machine}), small_set, places(tmp_path))
    assert hashes(tmp_path / "checkpoints") == hashes(straight / "checkpoints")
    assert hashes(tmp_path) == hashes(straight)


def test_raised_epochs_end_as_a_straight_run(
    straight: Path, tmp_path: Path, small_params: Params, small_set: ProcessedSet
):
    fit(with_train(small_params, epochs=1), small_set, places(tmp_path))
    fit(small_params, small_set, places(tmp_path))
    assert hashes(tmp_path / "checkpoints") == hashes(straight / "checkpoints")
    assert hashes(tmp_path)["history.csv"] == hashes(straight)["history.csv"]


def test_fewer_epochs_than_are_done_start_anew(
    tmp_path: Path, small_params: Params, small_set: ProcessedSet
):
    fit(with_train(small_params, epochs=2), small_set, places(tmp_path))
    history = fit(with_train(small_params, epochs=1), small_set, places(tmp_path))
    assert len(history.epochs) == 1
    assert load_checkpoint(tmp_path / "checkpoints/best.ckpt")["epoch"] == 0


def test_a_raised_run_that_is_killed_goes_on_from_its_last_epoch(
    tmp_path: Path, small_params: Params, small_set: ProcessedSet
):
    """best.ckpt is still marked complete by the first run, yet is not the furthest."""
    fit(with_train(small_params, epochs=1), small_set, places(tmp_path))
    first = (tmp_path / "checkpoints/best.ckpt").read_bytes()
    fit(with_train(small_params, epochs=2), small_set, places(tmp_path))
    last = tmp_path / "checkpoints/last.ckpt"
    save_checkpoint(load_checkpoint(last) | {"complete": False}, last)
    (tmp_path / "checkpoints/best.ckpt").write_bytes(first)
    assert newest(last.parent)[0] == last


def test_a_loss_that_is_no_number_stops_the_run(
    tmp_path: Path, small_params: Params, small_set: ProcessedSet
):
    with pytest.raises(InputError, match=r"the loss is nan at epoch 0.* train\.learning_rate"):
        fit(with_train(small_params, learning_rate=1e30), small_set, places(tmp_path))


def test_a_finished_training_is_not_repeated(
    straight: Path, small_params: Params, small_set: ProcessedSet
):
    before = hashes(straight / "checkpoints")
    history = fit(small_params, small_set, places(straight))
    assert len(history.epochs) == 3
    assert hashes(straight / "checkpoints") == before


def test_another_learning_rate_starts_anew(
    tmp_path: Path, small_params: Params, small_set: ProcessedSet, caplog: pytest.LogCaptureFixture
):
    fit(with_train(small_params, epochs=1), small_set, places(tmp_path))
    first = load_checkpoint(tmp_path / "checkpoints/last.ckpt")["state_dict"]
    fit(with_train(small_params, epochs=1, learning_rate=1e-2), small_set, places(tmp_path))
    second = load_checkpoint(tmp_path / "checkpoints/last.ckpt")
    assert "train.learning_rate: 0.001, now 0.01" in caplog.text
    assert second["epoch"] == 0
    assert not torch.equal(
        first["model.pooling.weight"], second["state_dict"]["model.pooling.weight"]
    )


def test_unfinished_work_of_another_training_is_kept(
    tmp_path: Path, small_params: Params, small_set: ProcessedSet
):
    fit(with_train(small_params, epochs=1), small_set, places(tmp_path))
    last = tmp_path / "checkpoints/last.ckpt"
    for path in (last, last.with_name("best.ckpt")):
        save_checkpoint(load_checkpoint(path) | {"complete": False}, path)
    content = last.read_bytes()
    fit(with_train(small_params, epochs=1, learning_rate=1e-2), small_set, places(tmp_path))
    assert (tmp_path / "unfinished/1/last.ckpt").read_bytes() == content


@pytest.mark.parametrize("damage", ["cut", "flipped", "text"])
def test_a_damaged_checkpoint_is_named_and_passed_over(
    damage: str, straight: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    content = (straight / "checkpoints/last.ckpt").read_bytes()
    (tmp_path / "previous.ckpt").write_bytes((straight / "checkpoints/best.ckpt").read_bytes())
    middle = len(content) // 2
    (tmp_path / "last.ckpt").write_bytes(
        {
            "cut": content[:middle],
            "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "text": b"no checkpoint",
        }[damage]
    )
    found = newest(tmp_path)
    assert found is not None
    assert found[0].name == "previous.ckpt"
    assert "last.ckpt" in caplog.text


def test_an_unfinished_checkpoint_is_refused_by_what_comes_after(straight: Path, tmp_path: Path):
    unfinished = load_checkpoint(straight / "checkpoints/best.ckpt") | {"complete": False}
    save_checkpoint(unfinished, tmp_path / "best.ckpt")
    with pytest.raises(InputError, match="has not ended; `dvc repro`"):
        load_complete(tmp_path / "best.ckpt")


def test_too_few_volumes_for_a_batch(tmp_path: Path, small_params: Params, small_set: ProcessedSet):
    with pytest.raises(InputError, match=r"train\.batch_size: 100 is more than the \d+ volumes"):
        fit(with_train(small_params, batch_size=100), small_set, places(tmp_path))
