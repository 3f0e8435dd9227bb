"""Exact resume: which checkpoints are resumed, and that the final bytes are the same."""

import multiprocessing
import pickle
import random
import resource
import shutil
from pathlib import Path

import pytest
import timm
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.runtime import checkpoint_io
from multi_abnormality.runtime.checkpoint_io import (
    load_checkpoint,
    load_complete,
    save_checkpoint,
)
from multi_abnormality.runtime.checkpoint_saver import BackupHook
from multi_abnormality.runtime.graceful_stop import Stopped
from multi_abnormality.utils.errors import InputError
from stops import StopAtCheck

ALWAYS = {"save_every_n_minutes": 1e-9}  # a save after every step


class Crash(Exception):
    pass


class CrashAtSave(BackupHook):
    """Ends training immediately after the n-th save, as a kill would."""

    def __init__(self, number: int) -> None:
        self.left = number

    def saved(self, epochs_done: int) -> None:  # noqa: ARG002
        self.left -= 1
        if self.left == 0:
            raise Crash


def crash(runner, folder: Path, saves: int, **train: object) -> None:
    with pytest.raises(Crash):
        runner.run(folder, backup=CrashAtSave(saves), **ALWAYS, **train)


@pytest.mark.slow
def test_exact_resume_after_many_stops(runner, two_epochs: Path, tmp_path: Path):
    """A run that is stopped at every second step, and in validation, which then starts again."""
    settings = {"epochs": 2, "save_every_n_epochs": 2}
    positions, checks = [(0, 0)], 2
    for _ in range(100):
        try:
            runner.run(tmp_path, stop=StopAtCheck(checks), **settings)
            break
        except Stopped:
            found = runner.prepare(tmp_path, **settings).checkpoint.position
            checks = checks + 1 if (found.epoch, found.batch) == positions[-1] else 2
            positions.append((found.epoch, found.batch))
    assert runner.hashes(tmp_path) == runner.hashes(two_epochs)
    batches = max(batch for _, batch in positions)
    assert {epoch for epoch, _ in positions} == {0, 1}
    assert len(set(positions)) > batches
    assert len(set(positions)) < len(positions)  # in validation


@pytest.mark.slow
def test_exact_resume_after_a_stop_at_any_step(runner, reference: Path, tmp_path: Path):
    positions = []
    for check in range(1, 100):
        folder = tmp_path / str(check)
        try:
            runner.run(folder, stop=StopAtCheck(check))
            break
        except Stopped:
            found = runner.prepare(folder).checkpoint
            positions.append((found.position.epoch, found.position.batch))
            runner.run(folder)
            assert runner.hashes(folder) == runner.hashes(reference), positions
    batches = max(batch for _, batch in positions)
    everywhere = {(epoch, batch) for epoch in range(3) for batch in range(batches + 1)}
    assert set(positions) == everywhere - {(0, 0)}
    assert positions.count((1, batches)) > 1  # also in validation


def test_stop_in_validation_leaves_no_worker(runner, tmp_path: Path):
    """Workers ignore signals, so a parent that does not end them would wait forever at exit."""
    with pytest.raises(Stopped):
        runner.run(tmp_path, stop=StopAtCheck(4), machine={"workers": 1})
    position = runner.prepare(tmp_path).checkpoint.position
    assert position.epoch == 0
    assert position.batch > 2
    assert multiprocessing.active_children() == []


def test_exact_resume_after_several_crashes(runner, reference: Path, tmp_path: Path):
    """At each step of the first epoch, and in the second: a resume of a resume of a resume."""
    for saves in (1, 1, 1, 2):
        crash(runner, tmp_path, saves)
    last, previous = (
        load_checkpoint(tmp_path / "checkpoints" / name) for name in ("last.ckpt", "previous.ckpt")
    )
    assert last["position"] != previous["position"]
    assert any(
        not torch.equal(weight, previous["current_model_state"][name])
        for name, weight in last["current_model_state"].items()
    )
    runner.run(tmp_path, machine={"workers": 2})
    assert runner.hashes(tmp_path) == runner.hashes(reference)
    (log,) = (tmp_path / "logs").glob("events.*")
    events = EventAccumulator(str(log)).Reload()
    for name in ("train_loss", "val_auroc"):
        assert [event.step for event in events.Scalars(name)] == [0, 1, 2]


def test_exact_resume_from_before_the_first_step(runner, reference: Path, tmp_path: Path):
    """With a backup, a checkpoint is saved before the first step."""
    backup = CrashAtSave(1)
    backup.is_on = True
    with pytest.raises(Crash):
        runner.run(tmp_path, backup=backup)
    assert load_checkpoint(tmp_path / "checkpoints/last.ckpt")["position"] == {
        "epoch": 0,
        "batch": 0,
    }
    runner.run(tmp_path)
    assert runner.hashes(tmp_path) == runner.hashes(reference)


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory: pytest.TempPathFactory, runner) -> Path:
    folder = tmp_path_factory.mktemp("two epochs")
    runner.run(folder, epochs=2, save_every_n_epochs=2)
    return folder


@pytest.mark.parametrize("loss", ["missing", "damaged", "older"])
def test_missing_last_checkpoint_is_restored_from_copies(
    loss: str, runner, two_epochs: Path, tmp_path: Path
):
    """As if killed when the last epoch was saved only as best.ckpt or as an epoch checkpoint."""
    settings = {"epochs": 2, "save_every_n_epochs": 2}
    crash(runner, tmp_path / "killed", saves=5, **settings)
    last = tmp_path / "killed/checkpoints/last.ckpt"
    older = last.with_name("previous.ckpt").read_bytes()
    crash(runner, tmp_path / "killed", saves=3, **settings)
    assert load_checkpoint(last)["position"] == {"epoch": 2, "batch": 0}
    if loss == "missing":
        last.unlink()
    else:
        last.write_bytes(older if loss == "older" else older[:-1])
    shutil.rmtree(tmp_path / "killed/archive")
    runner.run(tmp_path / "killed", **settings)
    assert runner.hashes(tmp_path / "killed") == runner.hashes(two_epochs)


@pytest.mark.parametrize("missing", ["best.ckpt", "multi_abnormality-epoch=01*"])
def test_missing_epoch_checkpoints_are_restored(
    missing: str, runner, reference: Path, tmp_path: Path
):
    """As if killed between the saves of an epoch's files."""
    crash(runner, tmp_path, saves=8)
    assert runner.prepare(tmp_path).checkpoint.position.batch == 0
    for path in (tmp_path / "checkpoints").glob(missing):
        path.unlink()
    runner.run(tmp_path)
    assert runner.hashes(tmp_path) == runner.hashes(reference)


@pytest.mark.parametrize("moment", ["between runs", "during a run"])
def test_deleted_epoch_checkpoint_is_restored(moment: str, runner, tmp_path: Path):
    settings = {"epochs": 3, "save_every_n_epochs": 1}
    runner.run(tmp_path / "reference", **settings)
    folder = tmp_path / "killed"

    class DeleteThenCrash(CrashAtSave):
        def saved(self, epochs_done: int) -> None:
            super().saved(epochs_done)
            if moment == "during a run":
                for path in (folder / "checkpoints").glob("*epoch=00*"):
                    path.unlink()

    with pytest.raises(Crash):
        runner.run(folder, backup=DeleteThenCrash(8), **ALWAYS, **settings)
    for path in (folder / "checkpoints").glob("*epoch=00*"):
        path.unlink()
    runner.run(folder, **settings)
    assert runner.hashes(folder) == runner.hashes(tmp_path / "reference")


def test_exact_resume_after_raised_epochs_and_a_crash(runner, reference, tmp_path: Path):
    runner.run(tmp_path, epochs=1)
    crash(runner, tmp_path, saves=2)
    assert runner.prepare(tmp_path).checkpoint.position.epoch == 1
    runner.run(tmp_path)
    assert runner.hashes(tmp_path) == runner.hashes(reference)


def test_another_learning_rate_starts_a_new_run_and_archives_the_only_copy(
    runner, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    crash(runner, tmp_path, saves=2)
    content = (tmp_path / "checkpoints/last.ckpt").read_bytes()
    assert runner.prepare(tmp_path, learning_rate=1e-2).checkpoint is None
    assert "train.learning_rate: 0.001, now 0.01" in caplog.text
    assert list((tmp_path / "checkpoints").iterdir()) == []
    (run_dir,) = (tmp_path / "archive").iterdir()
    assert f"`cp {run_dir}/* {tmp_path}/checkpoints/` restores them" in caplog.text
    assert (run_dir / "last.ckpt").read_bytes() == content


def test_switching_back_to_a_learning_rate_resumes_its_run(runner, reference: Path, tmp_path: Path):
    crash(runner, tmp_path, saves=6)
    crash(runner, tmp_path, saves=1, learning_rate=1e-2)
    assert runner.prepare(tmp_path).checkpoint.position.epoch == 1
    runner.run(tmp_path)
    assert runner.hashes(tmp_path) == runner.hashes(reference)
    other = runner.prepare(tmp_path, learning_rate=1e-2)
    assert (other.checkpoint.position.epoch, other.checkpoint.position.batch) == (0, 1)


def fill_cache(folder: Path) -> None:
    """Copy the checkpoints to DVC's cache, as `dvc repro` and backups do."""
    for path in (folder / "checkpoints").iterdir():
        digest = checkpoint_io.hashlib.md5(path.read_bytes()).hexdigest()
        (folder / "cache" / digest[:2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "cache" / digest[:2] / digest[2:])


def test_deleted_epoch_checkpoint_of_a_finished_run_is_restored(runner, tmp_path: Path):
    settings = {"epochs": 1, "save_every_n_epochs": 1}
    runner.run(tmp_path, **settings)
    finished = runner.hashes(tmp_path)
    fill_cache(tmp_path)
    (kept,) = (tmp_path / "checkpoints").glob("*epoch=00*")
    kept.unlink()
    runner.run(tmp_path, **settings)
    assert runner.hashes(tmp_path) == finished


def test_finished_run_in_the_dvc_cache_comes_back_without_training(runner, tmp_path: Path):
    runner.run(tmp_path, epochs=1)
    finished = runner.hashes(tmp_path)
    fill_cache(tmp_path)
    runner.run(tmp_path, epochs=1, learning_rate=1e-2)
    archived = {path.name: path.suffix for path in (tmp_path / "archive").rglob("*.*")}
    assert archived.pop("best.ckpt.md5") == archived.pop("last.ckpt.md5") == ".md5"
    assert set(archived) == {"best.ckpt", "last.ckpt"}  # of the other run, which no cache holds
    training = runner.prepare(tmp_path, epochs=1)
    assert training.is_finished
    training.run()
    assert runner.hashes(tmp_path) == finished
    assert not list((tmp_path / "archive").rglob("*.md5"))
    shutil.rmtree(tmp_path / "cache")
    assert runner.prepare(tmp_path, epochs=1, learning_rate=1e-2).is_finished


def test_weights_file_is_only_needed_to_start_a_run(runner, tmp_path: Path, caplog):
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model(runner.params.model.backbone).state_dict(), path)
    model = {"pretrained": str(path)}
    runner.run(tmp_path / "reference", model=model, epochs=2)
    with pytest.raises(Stopped):
        runner.run(tmp_path / "moved", stop=StopAtCheck(2), model=model, epochs=2)
    path.unlink()
    runner.run(tmp_path / "moved", model=model, epochs=2)
    assert f"{path} is missing; resuming does not need it" in caplog.text
    assert runner.hashes(tmp_path / "moved") == runner.hashes(tmp_path / "reference")
    with pytest.raises(InputError, match=r"model\.pretrained: file not found"):
        runner.run(tmp_path / "new", model=model)


def test_other_findings_start_a_new_run(runner, tmp_path: Path, caplog):
    crash(runner, tmp_path, saves=1)
    other = shutil.copytree(runner.processed.root, tmp_path / "processed")
    text = (other / "labels.csv").read_text()
    (other / "labels.csv").write_text(text.replace("Emphysema", "Cyst", 1))
    renamed = type(runner)(runner.params, ProcessedDataset(other))
    assert renamed.prepare(tmp_path).checkpoint is None
    assert "Emphysema" in caplog.text
    assert "Cyst" in caplog.text.partition(", now [")[2]


def test_changed_code_starts_a_new_run_unless_allowed(runner, tmp_path: Path, caplog):
    crash(runner, tmp_path, saves=2)
    for path in (tmp_path / "checkpoints").iterdir():
        checkpoint = load_checkpoint(path)
        checkpoint["about"]["identity"]["code"]["model/losses.py"] = "an earlier version"
        save_checkpoint(checkpoint, path)
    shutil.rmtree(tmp_path / "archive")
    accepted = runner.prepare(tmp_path, machine={"allow_code_changes": True})
    assert accepted.checkpoint.path.name == "last.ckpt"
    assert runner.prepare(tmp_path).checkpoint is None
    assert "model/losses.py: changed" in caplog.text


def test_fewer_epochs_resume_an_earlier_checkpoint_or_start_a_new_run(runner, tmp_path: Path):
    runner.run(tmp_path, epochs=3)
    runner.run(tmp_path, epochs=2)  # the second epoch has a checkpoint
    runner.run(tmp_path / "two", epochs=2)
    assert runner.hashes(tmp_path) == runner.hashes(tmp_path / "two")
    training = runner.prepare(tmp_path, epochs=1)
    assert training.checkpoint is None
    assert len(runner.run(tmp_path, epochs=1).epochs) == 1


def test_resume_required_and_never(runner, tmp_path: Path):
    with pytest.raises(InputError, match=r"train\.resume is `required`"):
        runner.prepare(tmp_path, resume="required")
    crash(runner, tmp_path, saves=2)
    assert runner.prepare(tmp_path, resume="required").checkpoint
    before = (tmp_path / "checkpoints/last.ckpt").read_bytes()
    with pytest.raises(Crash):
        runner.run(tmp_path, backup=CrashAtSave(1), **ALWAYS, resume="never")
    assert runner.prepare(tmp_path).checkpoint.position.batch == 1
    with pytest.raises(Crash):
        runner.run(tmp_path, backup=CrashAtSave(1), **ALWAYS, resume="never")
    kept = sorted((tmp_path / "archive").glob("*-before*/last.ckpt"))
    assert len(kept) == 2
    assert kept[0].read_bytes() == before


@pytest.mark.parametrize("saves", [2, 6])
def test_exact_resume_after_a_checkout_over_the_checkpoints(
    saves: int, runner, reference: Path, tmp_path: Path
):
    """`dvc exp run` starts by checking out an earlier commit's checkpoints, or none."""
    runner.run(tmp_path, epochs=1, learning_rate=1e-2)
    earlier = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    crash(runner, tmp_path, saves)
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").mkdir()
    for name, content in earlier.items() if saves == 2 else ():
        (tmp_path / "checkpoints" / name).write_bytes(content)
    assert runner.prepare(tmp_path).checkpoint.position.epoch == (saves > 2)
    runner.run(tmp_path)
    assert runner.hashes(tmp_path) == runner.hashes(reference)


def damaged(content: bytes) -> list[bytes]:
    rng = random.Random(0)
    cut = [content[: rng.randrange(len(content))] for _ in range(10)]
    flipped = []
    for offset in [0, len(content) - 1, *(rng.randrange(len(content)) for _ in range(198))]:
        changed = bytearray(content)
        changed[offset] ^= 1 << rng.randrange(8)
        flipped.append(bytes(changed))
    return [b"", b"no checkpoint", *cut, *flipped]


def test_damaged_file_is_never_loaded(runner, tmp_path: Path):
    crash(runner, tmp_path, saves=2)
    path = tmp_path / "checkpoints/last.ckpt"
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"last\.ckpt"):
            load_checkpoint(path)


def test_previous_checkpoint_replaces_a_damaged_one(
    runner, reference: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    crash(runner, tmp_path, saves=2)
    path = tmp_path / "checkpoints/last.ckpt"
    path.write_bytes(path.read_bytes()[:-1])
    training = runner.prepare(tmp_path)
    assert training.checkpoint.path.name == "previous.ckpt"
    assert "last.ckpt: was cut short or altered" in caplog.text
    runner.run(tmp_path)
    assert runner.hashes(tmp_path) == runner.hashes(reference)


def test_damaged_best_checkpoint_is_restored(runner, reference: Path, tmp_path: Path):
    crash(runner, tmp_path, saves=6)
    path = tmp_path / "checkpoints/best.ckpt"
    path.write_bytes(path.read_bytes()[:-1])
    runner.run(tmp_path)
    assert runner.hashes(tmp_path) == runner.hashes(reference)


class Code:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("it-was-run"),)


def test_code_in_a_checkpoint_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: Path
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.ckpt"
    path.write_bytes(pickle.dumps(Code()))
    with pytest.raises(InputError, match="cut short or altered"):
        load_checkpoint(path)
    monkeypatch.setattr(checkpoint_io, "_canonical", lambda value, _: value)
    save_checkpoint(load_checkpoint(reference / "checkpoints/last.ckpt") | {"more": Code()}, path)
    with pytest.raises(InputError, match="no code in it was run"):
        load_checkpoint(path)
    assert not Path("it-was-run").exists()


def test_checkpoint_of_a_newer_version_is_refused(
    runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    crash(runner, tmp_path, saves=2)
    path = tmp_path / "checkpoints/last.ckpt"
    content = load_checkpoint(path)
    with monkeypatch.context() as later:
        later.setattr(checkpoint_io, "FORMAT", 99)
        save_checkpoint(content, path)
    with pytest.raises(InputError, match="newer version of this project"):
        runner.prepare(tmp_path)
    assert path.exists()


def test_checkpoint_of_an_earlier_version_is_archived_and_named(
    runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    crash(runner, tmp_path, saves=2)
    path = tmp_path / "checkpoints/last.ckpt"
    content = load_checkpoint(path)
    shutil.rmtree(tmp_path / "archive")
    path.with_name("previous.ckpt").unlink()
    with monkeypatch.context() as earlier:
        earlier.setattr(checkpoint_io, "FORMAT", 2)
        save_checkpoint(content, path)
    with pytest.raises(InputError, match=r"last\.ckpt: was written by an earlier version"):
        load_complete(path)
    assert runner.prepare(tmp_path).checkpoint is None
    assert "earlier version of this project (format 2, this version reads 3)" in caplog.text
    assert len(list((tmp_path / "archive").glob("*/last.ckpt"))) == 1


def test_unwritable_directory_is_refused(runner, tmp_path: Path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(InputError, match="checkpoints: cannot be written"):
        runner.prepare(tmp_path)


def test_full_disk_stops_the_run_and_leaves_checkpoints_intact(
    runner, reference: Path, tmp_path: Path
):
    crash(runner, tmp_path, saves=2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"last\.ckpt: cannot be written \(File too large\)"):
            runner.run(tmp_path, **ALWAYS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert runner.prepare(tmp_path).checkpoint.position.batch == 2
    runner.run(tmp_path)
    assert runner.hashes(tmp_path) == runner.hashes(reference)


def test_load_complete_refuses_an_unfinished_checkpoint(reference: Path, tmp_path: Path):
    unfinished = load_checkpoint(reference / "checkpoints/best.ckpt") | {"complete": False}
    save_checkpoint(unfinished, tmp_path / "best.ckpt")
    with pytest.raises(InputError, match="has not ended; `dvc repro`"):
        load_complete(tmp_path / "best.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize(
    "train",
    [
        {"accumulate_grad_batches": 2},
        {"precision": "bfloat16"},
        {"augmentation": "advanced", "mixup_prob": 0.4, "cutmix_prob": 0.4},
    ],
    ids=["accumulate_grad_batches", "bfloat16", "augmentation"],
)
def test_exact_resume_with_options(train, runner, tmp_path: Path):
    runner.run(tmp_path / "reference", **train)
    expected = runner.hashes(tmp_path / "reference")
    for check in (1, 2, 6, 9, 11):
        folder = tmp_path / str(check)
        with pytest.raises(Stopped):
            runner.run(folder, stop=StopAtCheck(check), **train)
        runner.run(folder, **train)
        assert runner.hashes(folder) == expected, check


def test_float16_requires_a_gpu(runner, tmp_path: Path):
    with pytest.raises(InputError, match=r"train\.precision: float16 takes a GPU"):
        runner.prepare(tmp_path, precision="float16")
