"""Going on from checkpoints: which are taken, which are not, and that the end is the same."""

import multiprocessing
import pickle
import random
import resource
import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.errors import InputError
from multi_abnormality.training import files
from multi_abnormality.training.checkpoints import load_complete
from multi_abnormality.training.files import load_checkpoint, save_checkpoint
from multi_abnormality.training.position import Position
from multi_abnormality.training.saves import NoBackup
from multi_abnormality.training.stopping import Stopped
from stops import StopAtLook

ALWAYS = {"save_every_n_minutes": 1e-9}  # a save after every step


class Crash(Exception):
    pass


class CrashAtSave(NoBackup):
    """Ends training at once after the n-th save, as a kill would."""

    def __init__(self, number: int) -> None:
        self.left = number

    def saved(self, epochs_done: int) -> None:  # noqa: ARG002
        self.left -= 1
        if self.left == 0:
            raise Crash


def crash(trainings, folder: Path, saves: int, **train: object) -> None:
    with pytest.raises(Crash):
        trainings.run(folder, backup=CrashAtSave(saves), **ALWAYS, **train)


def test_a_stop_at_any_moment_loses_nothing(trainings, straight: Path, tmp_path: Path):
    places = []
    for look in range(1, 100):
        folder = tmp_path / str(look)
        try:
            trainings.run(folder, stop=StopAtLook(look))
            break
        except Stopped:
            found = trainings.prepare(folder).found
            places.append((found.position.epoch, found.position.batch))
            trainings.run(folder)
            assert trainings.hashes(folder) == trainings.hashes(straight), places
    batches = max(batch for _, batch in places)
    everywhere = {(epoch, batch) for epoch in range(3) for batch in range(batches + 1)}
    assert set(places) == everywhere - {(0, 0)}
    assert places.count((1, batches)) > 1  # also in validation


def test_a_stop_in_validation_leaves_no_worker(trainings, tmp_path: Path):
    """Workers leave signals to their parent, which would wait for them for ever at its end."""
    with pytest.raises(Stopped):
        trainings.run(tmp_path, stop=StopAtLook(4), machine={"workers": 1})
    position = trainings.prepare(tmp_path).found.position
    assert position.epoch == 0
    assert position.batch > 2
    assert multiprocessing.active_children() == []


def test_any_number_of_crashes_changes_nothing(trainings, straight: Path, tmp_path: Path):
    for saves in (1, 2, 2, 1):
        crash(trainings, tmp_path, saves)
    trainings.run(tmp_path, machine={"workers": 2})
    assert trainings.hashes(tmp_path) == trainings.hashes(straight)
    (log,) = (tmp_path / "logs").iterdir()
    events = EventAccumulator(str(log)).Reload()
    for name in ("train_loss", "val_auroc"):
        assert [event.step for event in events.Scalars(name)] == [0, 1, 2]


def test_a_save_before_the_first_step_changes_nothing(trainings, straight: Path, tmp_path: Path):
    """It is made where there is a backup: the machine may be lost before the next one."""
    backup = CrashAtSave(1)
    backup.is_on = True
    with pytest.raises(Crash):
        trainings.run(tmp_path, backup=backup)
    assert load_checkpoint(tmp_path / "checkpoints/last.ckpt")["position"] == Position(0, 0).state()
    trainings.run(tmp_path)
    assert trainings.hashes(tmp_path) == trainings.hashes(straight)


@pytest.mark.parametrize("loss", ["missing", "damaged", "older"])
def test_the_last_epochs_end_is_made_up_for(loss: str, trainings, tmp_path: Path):
    """As if killed when the last epoch was saved as best.ckpt or by its number alone."""
    settings = {"epochs": 2, "save_every_n_epochs": 2}
    trainings.run(tmp_path / "straight", **settings)
    crash(trainings, tmp_path / "killed", saves=5, **settings)
    last = tmp_path / "killed/checkpoints/last.ckpt"
    older = last.with_name("previous.ckpt").read_bytes()
    crash(trainings, tmp_path / "killed", saves=3, **settings)
    assert load_checkpoint(last)["position"] == {"epoch": 2, "batch": 0}
    if loss == "missing":
        last.unlink()
    else:
        last.write_bytes(older if loss == "older" else older[:-1])
    shutil.rmtree(tmp_path / "killed/aside")
    trainings.run(tmp_path / "killed", **settings)
    assert trainings.hashes(tmp_path / "killed") == trainings.hashes(tmp_path / "straight")


@pytest.mark.parametrize("missing", ["best.ckpt", "multi_abnormality-epoch=01*"])
def test_what_an_epochs_end_leaves_is_made_up_for(
    missing: str, trainings, straight: Path, tmp_path: Path
):
    """As if killed between the files that an epoch's end is saved as."""
    crash(trainings, tmp_path, saves=8)
    assert trainings.prepare(tmp_path).found.position.batch == 0
    for path in (tmp_path / "checkpoints").glob(missing):
        path.unlink()
    trainings.run(tmp_path)
    assert trainings.hashes(tmp_path) == trainings.hashes(straight)


@pytest.mark.parametrize("moment", ["between runs", "during a run"])
def test_a_kept_checkpoint_that_was_deleted_comes_back(moment: str, trainings, tmp_path: Path):
    settings = {"epochs": 3, "save_every_n_epochs": 1}
    trainings.run(tmp_path / "straight", **settings)
    folder = tmp_path / "killed"

    class DeleteThenCrash(CrashAtSave):
        def saved(self, epochs_done: int) -> None:
            super().saved(epochs_done)
            if moment == "during a run":
                for path in (folder / "checkpoints").glob("*epoch=00*"):
                    path.unlink()

    with pytest.raises(Crash):
        trainings.run(folder, backup=DeleteThenCrash(8), **ALWAYS, **settings)
    for path in (folder / "checkpoints").glob("*epoch=00*"):
        path.unlink()
    trainings.run(folder, **settings)
    assert trainings.hashes(folder) == trainings.hashes(tmp_path / "straight")


def test_an_unfinished_run_with_more_epochs_and_then_killed(trainings, straight, tmp_path: Path):
    trainings.run(tmp_path, epochs=1)
    crash(trainings, tmp_path, saves=2)
    assert trainings.prepare(tmp_path).found.position.epoch == 1
    trainings.run(tmp_path)
    assert trainings.hashes(tmp_path) == trainings.hashes(straight)


def test_another_learning_rate_starts_anew_and_keeps_the_only_copy(
    trainings, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    crash(trainings, tmp_path, saves=2)
    content = (tmp_path / "checkpoints/last.ckpt").read_bytes()
    assert trainings.prepare(tmp_path, learning_rate=1e-2).found is None
    assert "train.learning_rate: 0.001, now 0.01" in caplog.text
    assert list((tmp_path / "checkpoints").iterdir()) == []
    (place,) = (tmp_path / "aside").iterdir()
    assert f"`cp {place}/* {tmp_path}/checkpoints/` brings it back" in caplog.text
    assert (place / "last.ckpt").read_bytes() == content


def test_going_back_to_a_learning_rate_goes_on_from_there(
    trainings, straight: Path, tmp_path: Path
):
    crash(trainings, tmp_path, saves=6)
    crash(trainings, tmp_path, saves=1, learning_rate=1e-2)
    assert trainings.prepare(tmp_path).found.position.epoch == 1
    trainings.run(tmp_path)
    assert trainings.hashes(tmp_path) == trainings.hashes(straight)
    other = trainings.prepare(tmp_path, learning_rate=1e-2)
    assert (other.found.position.epoch, other.found.position.batch) == (0, 1)


def test_what_the_cache_holds_is_not_kept_twice(trainings, tmp_path: Path):
    trainings.run(tmp_path, epochs=1)
    for path in (tmp_path / "checkpoints").iterdir():  # as `dvc repro` puts them there
        digest = files.hashlib.md5(path.read_bytes()).hexdigest()
        (tmp_path / "cache" / digest[:2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "cache" / digest[:2] / digest[2:])
    assert trainings.prepare(tmp_path, learning_rate=1e-2).found is None
    assert list((tmp_path / "aside").iterdir()) == []


def test_other_findings_start_anew(trainings, tmp_path: Path, caplog):
    crash(trainings, tmp_path, saves=1)
    other = shutil.copytree(trainings.processed.root, tmp_path / "processed")
    text = (other / "labels.csv").read_text()
    (other / "labels.csv").write_text(text.replace("Emphysema", "Cyst", 1))
    renamed = type(trainings)(trainings.params, ProcessedSet(other))
    assert renamed.prepare(tmp_path).found is None
    assert "Emphysema" in caplog.text
    assert "Cyst" in caplog.text.partition(", now [")[2]


def test_changed_code_starts_anew_unless_it_is_accepted(trainings, tmp_path: Path, caplog):
    crash(trainings, tmp_path, saves=2)
    for path in (tmp_path / "checkpoints").iterdir():
        checkpoint = load_checkpoint(path)
        checkpoint["about"]["identity"]["code"]["model/losses.py"] = "an earlier version"
        save_checkpoint(checkpoint, path)
    shutil.rmtree(tmp_path / "aside")
    accepted = trainings.prepare(tmp_path, machine={"accept_changed_code": True})
    assert accepted.found.path.name == "last.ckpt"
    assert trainings.prepare(tmp_path).found is None
    assert "model/losses.py: changed" in caplog.text


def test_fewer_epochs_go_back_to_an_earlier_checkpoint_or_start_anew(trainings, tmp_path: Path):
    trainings.run(tmp_path, epochs=3)
    trainings.run(tmp_path, epochs=2)  # one is kept of the second epoch
    trainings.run(tmp_path / "two", epochs=2)
    assert trainings.hashes(tmp_path) == trainings.hashes(tmp_path / "two")
    training = trainings.prepare(tmp_path, epochs=1)
    assert training.found is None
    assert len(trainings.run(tmp_path, epochs=1).epochs) == 1


def test_resume_must_and_never(trainings, tmp_path: Path):
    with pytest.raises(InputError, match=r"train\.resume is `must`"):
        trainings.prepare(tmp_path, resume="must")
    crash(trainings, tmp_path, saves=2)
    assert trainings.prepare(tmp_path, resume="must").found
    before = (tmp_path / "checkpoints/last.ckpt").read_bytes()
    with pytest.raises(Crash):
        trainings.run(tmp_path, backup=CrashAtSave(1), **ALWAYS, resume="never")
    assert trainings.prepare(tmp_path).found.position.batch == 1
    with pytest.raises(Crash):
        trainings.run(tmp_path, backup=CrashAtSave(1), **ALWAYS, resume="never")
    kept = sorted((tmp_path / "aside").glob("*-before*/last.ckpt"))
    assert len(kept) == 2
    assert kept[0].read_bytes() == before


@pytest.mark.parametrize("saves", [2, 6])
def test_it_goes_on_after_a_checkout_over_it(saves: int, trainings, straight: Path, tmp_path: Path):
    """`dvc exp run` begins with one: of an earlier commit's checkpoints, or of none."""
    trainings.run(tmp_path, epochs=1, learning_rate=1e-2)
    earlier = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    crash(trainings, tmp_path, saves)
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").mkdir()
    for name, content in earlier.items() if saves == 2 else ():
        (tmp_path / "checkpoints" / name).write_bytes(content)
    assert trainings.prepare(tmp_path).found.position.epoch == (saves > 2)
    trainings.run(tmp_path)
    assert trainings.hashes(tmp_path) == trainings.hashes(straight)


def damaged(content: bytes) -> list[bytes]:
    rng = random.Random(0)
    cut = [content[: rng.randrange(len(content))] for _ in range(10)]
    flipped = []
    for place in [0, len(content) - 1, *(rng.randrange(len(content)) for _ in range(198))]:
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randrange(8)
        flipped.append(bytes(changed))
    return [b"", b"no checkpoint", *cut, *flipped]


def test_a_damaged_file_is_never_loaded(trainings, tmp_path: Path):
    crash(trainings, tmp_path, saves=2)
    path = tmp_path / "checkpoints/last.ckpt"
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"last\.ckpt"):
            load_checkpoint(path)


def test_the_generation_before_a_damaged_one_serves(
    trainings, straight: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    crash(trainings, tmp_path, saves=2)
    path = tmp_path / "checkpoints/last.ckpt"
    path.write_bytes(path.read_bytes()[:-1])
    training = trainings.prepare(tmp_path)
    assert training.found.path.name == "previous.ckpt"
    assert "last.ckpt: was cut short or altered" in caplog.text
    trainings.run(tmp_path)
    assert trainings.hashes(tmp_path) == trainings.hashes(straight)


def test_a_damaged_best_is_made_again(trainings, straight: Path, tmp_path: Path):
    crash(trainings, tmp_path, saves=6)
    path = tmp_path / "checkpoints/best.ckpt"
    path.write_bytes(path.read_bytes()[:-1])
    trainings.run(tmp_path)
    assert trainings.hashes(tmp_path) == trainings.hashes(straight)


class Code:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("it-was-run"),)


def test_code_in_place_of_a_checkpoint_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: Path
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.ckpt"
    path.write_bytes(pickle.dumps(Code()))
    with pytest.raises(InputError, match="cut short or altered"):
        load_checkpoint(path)
    monkeypatch.setattr(files, "_canonical", lambda value, _: value)
    save_checkpoint(load_checkpoint(straight / "checkpoints/last.ckpt") | {"more": Code()}, path)
    with pytest.raises(InputError, match="no code in it was run"):
        load_checkpoint(path)
    assert not Path("it-was-run").exists()


def test_a_newer_versions_checkpoint_is_not_passed_over(
    trainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    crash(trainings, tmp_path, saves=2)
    path = tmp_path / "checkpoints/last.ckpt"
    content = load_checkpoint(path)
    with monkeypatch.context() as later:
        later.setattr(files, "FORMAT", 99)
        save_checkpoint(content, path)
    with pytest.raises(InputError, match="newer version of this project"):
        trainings.prepare(tmp_path)
    assert path.exists()


def test_a_folder_that_cannot_be_written(trainings, tmp_path: Path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(InputError, match="checkpoints: cannot be written"):
        trainings.prepare(tmp_path)


def test_a_full_disk_ends_training_and_leaves_what_was_saved(
    trainings, straight: Path, tmp_path: Path
):
    crash(trainings, tmp_path, saves=2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"last\.ckpt: cannot be written \(File too large\)"):
            trainings.run(tmp_path, **ALWAYS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert trainings.prepare(tmp_path).found.position.batch == 2
    trainings.run(tmp_path)
    assert trainings.hashes(tmp_path) == trainings.hashes(straight)


def test_an_unfinished_checkpoint_is_refused_by_what_comes_after(straight: Path, tmp_path: Path):
    unfinished = load_checkpoint(straight / "checkpoints/best.ckpt") | {"complete": False}
    save_checkpoint(unfinished, tmp_path / "best.ckpt")
    with pytest.raises(InputError, match="has not ended; `dvc repro`"):
        load_complete(tmp_path / "best.ckpt")


@pytest.mark.parametrize(
    "train",
    [
        {"accumulate": 2},
        {"precision": "bfloat16"},
        {"augmentation": "advanced", "mixup": 0.4, "cutmix": 0.4},
    ],
    ids=["accumulate", "bfloat16", "augmentation"],
)
def test_every_way_to_train_goes_on_exactly(train, trainings, tmp_path: Path):
    trainings.run(tmp_path / "straight", **train)
    expected = trainings.hashes(tmp_path / "straight")
    for look in (1, 2, 6, 9, 11):
        folder = tmp_path / str(look)
        with pytest.raises(Stopped):
            trainings.run(folder, stop=StopAtLook(look), **train)
        trainings.run(folder, **train)
        assert trainings.hashes(folder) == expected, look


def test_float16_is_refused_without_a_gpu(trainings, tmp_path: Path):
    with pytest.raises(InputError, match=r"train\.precision: float16 takes a GPU"):
        trainings.prepare(tmp_path, precision="float16")
