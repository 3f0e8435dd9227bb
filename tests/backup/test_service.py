import logging
import os
import shutil
import signal
import stat
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import yaml
from dvc_objects.fs.utils import tmp_fname

from machines import FINGERPRINT, Machine, git, settle
from multi_abnormality.backup import process, service
from multi_abnormality.backup.service import Backup
from multi_abnormality.errors import InputError


def started(machine: Machine, remote: Path) -> Backup:
    """A backup to a remote, with nothing under way."""
    machine.use(remote)
    backup = machine.backup()
    backup.start()
    settle(backup)
    return backup


def files(remote: Path) -> set[str]:
    return {path.name for path in (remote / "files").rglob("*") if path.is_file()}


def train_entry(machine: Machine) -> dict:
    return yaml.safe_load((machine.folder / "dvc.lock").read_text())["stages"]["train"]


def test_no_remote_is_one_line(first: Machine, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    backup = first.backup()
    backup.start()
    first.save("a")
    backup.saved(1)
    backup.poll()
    backup.close(5)
    assert len(caplog.records) == 1
    assert "dvc remote add" in caplog.text
    assert git(first.folder, "status", "--porcelain") == ""


def test_outside_of_dvc_nothing_is_backed_up(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    machine = Machine(tmp_path)
    backup = machine.backup()
    backup.start()
    backup.saved(1)
    backup.close(5)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"remote": "elsewhere"}, r"no DVC remote 'elsewhere'.*dvc remote add elsewhere"),
        ({"git_remote": "elsewhere"}, r"no Git remote 'elsewhere', only origin"),
    ],
)
def test_unknown_remotes_are_named(first: Machine, remote: Path, settings: dict, message: str):
    first.use(remote)
    with pytest.raises(InputError, match=message):
        first.backup(**settings).start()


@pytest.mark.parametrize("kind", ["missing", "a file", "wrong kind"])
def test_a_remote_that_cannot_be_written_is_told_before_training(
    first: Machine, tmp_path: Path, kind: str
):
    if kind == "a file":
        (tmp_path / "file").write_text("")
        first.use(tmp_path / "file")
    elif kind == "missing":
        first.use(tmp_path / "backup")
        first("dvc", "remote", "modify", "--local", "backup", "url", "/nowhere/at/all")
    else:
        first.use(tmp_path / "backup")
        first("dvc", "remote", "modify", "--local", "backup", "url", "http://127.0.0.1:9/x")
    with pytest.raises(InputError, match=r"'backup' can't be written.*dvc remote modify backup"):
        first.backup().start()
    assert not (first.folder / ".dvc/tmp/backup.json").exists()


def test_a_save_is_recorded_as_a_true_unfinished_state(first: Machine, remote: Path):
    first.use(remote)
    before = (git(first.folder, "rev-parse", "HEAD"), git(first.folder, "ls-files", "--stage"))
    (first.folder / "metrics/history.csv").write_text("epoch\n0\n")
    backup = first.backup()
    backup.start()
    first.save("one")
    backup.saved(3)
    backup.close(30)
    entry = train_entry(first)
    assert entry["params"]["params.yaml"]["train"]["epochs"] == 3
    assert {out["path"] for out in entry["outs"]} == {"checkpoints", "metrics/history.csv"}
    assert first.ledger()["backups"][-1]["epochs"] == 3
    after = (git(first.folder, "rev-parse", "HEAD"), git(first.folder, "ls-files", "--stage"))
    assert after == before
    assert git(first.folder, "branch", "--list") == "* main"
    assert set(git(first.folder, "status", "--porcelain").split("\n")) == {
        "M dvc.lock", "?? metrics/history.csv",
    }  # fmt: skip
    held = git(first.folder, "ls-tree", "-r", "--name-only", f"refs/resume/main/{FINGERPRINT}")
    assert {"dvc.lock", "metrics/history.csv", "params.yaml"} <= set(held.split("\n"))


@pytest.mark.parametrize("done", [0, 6, 9])
def test_no_state_counts_as_finished(first: Machine, remote: Path, done: int):
    """Whatever was done; also where a finished run's results lie about."""
    first.use(remote)
    (first.folder / "metrics/train.json").write_text("{}")
    backup = first.backup()
    backup.start()
    first.save("one")
    backup.saved(done)
    backup.close(30)
    assert train_entry(first)["params"]["params.yaml"]["train"]["epochs"] == min(done, 5)
    assert "Running stage 'train'" in first("dvc", "repro", "--dry", "--allow-missing", "train")


def test_what_is_edited_while_training_runs_has_no_part_in_the_state(first: Machine, remote: Path):
    first.use(remote)
    first.set("train", learning_rate=0.004)
    backup = first.backup()
    backup.start()
    first.set("train", learning_rate=0.5)
    first.save("one")
    backup.saved(1)
    backup.close(30)
    assert train_entry(first)["params"]["params.yaml"]["train"]["learning_rate"] == 0.004
    held = git(first.folder, "show", f"refs/resume/main/{FINGERPRINT}:params.yaml")
    assert yaml.safe_load(held)["train"]["learning_rate"] == 0.004


def test_saving_does_not_wait_for_a_push(first: Machine, remote: Path):
    backup = started(first, remote)
    pushing = psutil.Process(backup._worker._process.pid)
    pushing.suspend()
    for epochs, state in enumerate(("one", "two"), start=1):
        first.save(state)
        backup.saved(epochs)
        assert first.epochs_backed_up() == 0
    pushing.resume()
    settle(backup)
    assert first.epochs_backed_up() == 2
    backup.close(5)


def test_a_remote_that_breaks_later_is_told_once_and_tried_again(
    first: Machine, remote: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(service, "PAUSE", 0.05)
    backup = started(first, remote)
    shutil.move(remote, remote.with_name("away"))
    remote.write_text("no folder")
    first.save("one")
    backup.saved(1)
    while backup._failures < 3:
        backup.poll()
        time.sleep(0.01)
    failures = [record for record in caplog.records if "backup failed" in record.message]
    assert len(failures) == 1
    assert "Not a directory" in failures[0].message
    assert "Not a directory" in first.ledger()["last_failure"]["reason"]
    remote.unlink()
    shutil.move(remote.with_name("away"), remote)
    settle(backup)
    assert first.epochs_backed_up() == 1
    backup.close(5)


def test_a_hung_push_is_ended_and_begun_anew(
    first: Machine, remote: Path, monkeypatch: pytest.MonkeyPatch
):
    """The stop does not wait for it either, and leaves no process."""
    monkeypatch.setattr(service, "STALL", 0.0)
    first.use(remote)
    backup = first.backup()
    backup.start()
    pid = backup._worker._process.pid
    while backup._failures == 0:
        backup.poll()
    assert not psutil.pid_exists(pid)
    first.save("one")
    backup.saved(1)
    start = time.monotonic()
    backup.close(0.0)
    assert time.monotonic() - start < 5
    children = psutil.Process().children(recursive=True)
    assert [child for child in children if "backup.worker" in " ".join(child.cmdline())] == []
    first("dvc", "status")


def test_however_long_it_failed_a_hung_push_is_given_up(
    first: Machine, remote: Path, monkeypatch: pytest.MonkeyPatch
):
    """A weekend without a network is more failures than a patience that always doubles can take."""
    backup = started(first, remote)
    backup._failures = 5000
    monkeypatch.setattr(service, "LONGEST_STALL", 0.3)
    first.save("one")
    backup.saved(1)
    os.kill(backup._worker._process.pid, signal.SIGSTOP)
    while backup._failures == 5000:
        backup.poll()
        time.sleep(0.02)
    assert backup._not_before - time.monotonic() <= service.LONGEST
    backup.close(20)
    assert first.epochs_backed_up() == 1


def test_a_process_that_the_system_does_not_end_holds_nobody_up(
    first: Machine, remote: Path, monkeypatch: pytest.MonkeyPatch
):
    """As one that waits for a dead file system, such as a mounted Drive."""
    backup = started(first, remote)
    held = backup._worker._process
    monkeypatch.setattr(process.os, "killpg", lambda *_: None)
    start = time.monotonic()
    backup.close(0.0)
    assert time.monotonic() - start < 10
    held.kill()
    held.wait()


def test_the_worker_dies_with_the_training(first: Machine, remote: Path):
    """A SIGKILL leaves nothing that goes on writing. Loader workers may take their time to go."""
    first.use(remote)
    script = (
        "from pathlib import Path; import os, time\n"
        "from multi_abnormality.backup.service import Backup\n"
        "from multi_abnormality.params_machine import Backup as Settings\n"
        "b = Backup(Settings(remote=None, git_remote=None, keep=2, grace=1), Path(), 'f')\n"
        "b.start(); os.write(1, str(b._worker._process.pid).encode())\n"
        "if os.fork() == 0: os.close(1), os.close(2), time.sleep(20), os._exit(0)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    process = first.train("python", "-c", script)
    pid = int(process.communicate()[0])
    end = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_one_process_sends_all_while_training_runs(
    first: Machine, remote: Path, monkeypatch: pytest.MonkeyPatch
):
    """To start DVC again for each save would cost a training as much as the save."""
    backup = started(first, remote)
    pid = backup._worker._process.pid
    for epochs in (1, 2):
        first.save(f"state {epochs}")
        backup.saved(epochs)
        settle(backup)
    assert first.epochs_backed_up() == 2
    assert backup._worker._process.pid == pid
    monkeypatch.setattr(process, "IDLE", 0.0)
    backup.poll()
    assert not psutil.pid_exists(pid)  # rare saves do not keep it in memory
    first.save("state 3")
    backup.saved(3)
    settle(backup)
    assert first.epochs_backed_up() == 3
    backup.close(5)


def test_a_process_that_was_killed_is_replaced(
    first: Machine, remote: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """As a machine without memory left does."""
    monkeypatch.setattr(service, "PAUSE", 0.05)
    backup = started(first, remote)
    backup._worker._process.kill()
    backup._worker._process.wait()
    first.save("one")
    backup.saved(1)
    settle(backup)
    assert first.epochs_backed_up() == 1
    first.save("two")
    backup.saved(2)
    backup._worker._process.kill()  # with a job under way
    settle(backup)
    assert "its process ended with -9" in caplog.text
    assert first.epochs_backed_up() == 2
    backup.close(5)


def test_no_room_for_a_process_stops_no_training(
    first: Machine, remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    monkeypatch.setattr(service, "PAUSE", 0.05)
    backup = started(first, remote)
    backup._worker.end()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    first.save("one")
    backup.saved(1)
    backup.poll()
    with pytest.raises(InputError, match=r"its process can't be started: .*gone"):
        first.backup().start()
    monkeypatch.setattr(tempfile, "tempdir", None)
    settle(backup)
    assert "its process can't be started" in caplog.text
    assert first.epochs_backed_up() == 1
    backup.close(5)


def test_what_a_killed_git_left_is_in_nobodys_way(first: Machine, remote: Path):
    (first.folder / ".dvc/tmp/backup.index.lock").touch()
    backup = started(first, remote)
    first.save("one")
    backup.saved(1)
    settle(backup)
    assert first.epochs_backed_up() == 1
    backup.close(5)


def test_hooks_signatures_and_a_missing_name_are_no_obstacle(first: Machine, remote: Path):
    first.use(remote)
    for key in ("user.name", "user.email"):
        git(first.folder, "config", "--unset", key)
    for key, value in (("commit.gpgSign", "true"), ("gpg.program", "false")):
        git(first.folder, "config", key, value)
    git(first.folder, "config", "push.gpgSign", "true")
    for hook in ("pre-push", "pre-commit", "post-index-change", "reference-transaction"):
        path = first.folder / ".git/hooks" / hook
        path.write_text("#!/bin/sh\nexit 1\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    backup = first.backup(git_remote="origin")
    backup.start()
    first.save("one")
    backup.saved(1)
    backup.close(30)
    refs = git(first.folder, "ls-remote", "origin", "refs/heads/resume/*")
    assert refs.endswith(f"refs/heads/resume/main/{FINGERPRINT}")


def test_a_git_remote_that_fails_gives_way_to_a_bundle(
    first: Machine, remote: Path, origin: Path, caplog: pytest.LogCaptureFixture
):
    first.use(remote)
    shutil.rmtree(origin)
    backup = first.backup(git_remote="origin")
    backup.start()
    assert "can't be written, so resume commits go to the DVC remote" in caplog.text
    first.save("one")
    backup.saved(1)
    backup.close(30)
    assert len(list((remote / "resume/main" / FINGERPRINT).glob("*.bundle"))) == 1


def test_untracked_sources_are_warned_of(
    first: Machine, remote: Path, caplog: pytest.LogCaptureFixture
):
    first.use(remote)
    (first.folder / "src/multi_abnormality/model/new.py").write_text("")
    backup = first.backup()
    backup.start()
    backup.close(5)
    assert "not in Git" in caplog.text
    assert "src/multi_abnormality/model/new.py" in caplog.text


@pytest.mark.parametrize("git_remote", [None, "origin"])
def test_keep_takes_away_its_own_superseded_states_alone(
    first: Machine, remote: Path, git_remote: str | None
):
    first.use(remote)
    first.save("of a commit")
    backup = first.backup(git_remote=git_remote)
    backup.start()
    backup.saved(1)
    settle(backup)
    named = files(remote)
    git(first.folder, "checkout", "--quiet", "-b", "keeping")
    git(first.folder, "commit", "--quiet", "--all", "--message", "Half a training")
    git(first.folder, "checkout", "--quiet", "main")
    (remote / "files/md5/ab").mkdir(exist_ok=True)
    (remote / "files/md5/ab" / ("c" * 30)).write_text("another project's")
    for epochs, content in enumerate(("two", "three", "four", "five"), start=2):
        first.save(content)
        backup.saved(epochs)
        settle(backup)
    left = files(remote) - named - {"c" * 30}
    assert named <= files(remote)
    assert (remote / "files/md5/ab" / ("c" * 30)).exists()
    assert len(left) == 4  # of the two newest, each a file and its folder's list
    assert len(list((remote / "resume").rglob("*.bundle"))) == (0 if git_remote else 2)
    backup.close(5)
    # What is gone counts as gone: a push sends it again.
    first.save("two")
    backup = first.backup()
    backup.start()
    backup.saved(6)
    backup.close(30)
    assert first.ledger()["backups"][-1]["bytes"] > 0
    assert "Everything is up to date" in first("dvc", "push", "train", "preprocess")


def test_what_killed_uploads_left_in_a_folder_goes_after_a_day(first: Machine, remote: Path):
    objects, bundles = remote / "files/md5/ab", remote / "resume/main/of_another_run"
    for folder in (objects, bundles):
        folder.mkdir(parents=True)
        for age in (0, 2):
            left = folder / tmp_fname()
            left.write_bytes(b"half")
            os.utime(left, times=(time.time() - age * 24 * 3600,) * 2)
    backup = started(first, remote)
    first.save("one")
    backup.saved(1)
    backup.close(30)
    assert [len(list(folder.iterdir())) for folder in (objects, bundles)] == [1, 1]


def test_a_stash_and_a_tag_keep_their_objects(first: Machine, remote: Path):
    first.use(remote)
    backup = first.backup(keep=1)
    backup.start()
    named: set[str] = set()
    for epochs, keep in enumerate(("tag", "stash", "stash", "none", "none"), start=1):
        first.save(f"state {epochs}")
        known = files(remote)
        backup.saved(epochs)
        settle(backup)
        if keep == "stash":
            git(first.folder, "stash", "--quiet")
        elif keep == "tag":
            git(first.folder, "commit", "--quiet", "--all", "--message", "Half")
            git(first.folder, "tag", "half")
            git(first.folder, "reset", "--quiet", "--hard", "HEAD~")
        if keep != "none":
            named |= files(remote) - known
    assert len(named) >= 6
    assert named <= files(remote)
    backup.close(5)


def test_a_failing_record_is_told_and_tried_again(
    first: Machine, remote: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Another DVC command holds the lock for a while."""
    monkeypatch.setattr(service, "PAUSE", 0.05)
    backup = started(first, remote)
    holder = first.train(
        "python", "-c",
        "import time\nfrom dvc.repo import Repo\n"
        "with Repo('.').lock: open('.dvc/tmp/held', 'w').close(); time.sleep(4)",
    )  # fmt: skip
    while not (first.folder / ".dvc/tmp/held").exists():
        time.sleep(0.05)
    first.save("one")
    backup.saved(1)
    assert "backup failed" in caplog.text
    holder.wait()
    settle(backup)
    assert first.epochs_backed_up() == 1
    backup.close(5)


@pytest.mark.parametrize("noise", ["a warning", "a warning\\n", "."])
def test_what_libraries_print_at_any_moment_is_no_part_of_an_answer(
    first: Machine, remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: str
):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, threading, time\n"
        "def print_on():\n"
        f"    while os.write(2, b'{noise}'): time.sleep(0.0005)\n"
        "if 'multi_abnormality.backup.worker' in sys.orig_argv:\n"
        "    threading.Thread(target=print_on, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    backup = started(first, remote)
    for epochs in (1, 2, 3):
        first.save(f"state {epochs}")
        backup.saved(epochs)
        settle(backup)
    assert first.epochs_backed_up() == 3
    assert backup._failures == 0
    backup.close(10)
