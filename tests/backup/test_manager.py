import hashlib
import logging
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import yaml
from dvc_objects.fs.utils import tmp_fname

from machines import FINGERPRINT, LONG, Machine, git, wait_for_uploads
from multi_abnormality.backup import backup_manager, push
from multi_abnormality.backup.backup_manager import BackupManager
from multi_abnormality.backup.dvc_recorder import open_repository
from multi_abnormality.backup.dvc_remote import Remote
from multi_abnormality.backup.git import repository_of
from multi_abnormality.backup.prune import prune
from multi_abnormality.backup.upload_log import UploadLog
from multi_abnormality.tools.doctor.check_remotes import check_dvc_remote
from multi_abnormality.tools.doctor.context import DoctorContext
from multi_abnormality.utils.errors import InputError


def started(machine: Machine, remote: Path) -> BackupManager:
    machine.use(remote)
    backup = machine.backup()
    backup.start()
    return backup


def process(backup: BackupManager) -> psutil.Process:
    """Return the process of the running push."""
    return psutil.Process(backup._push._process.pid)


def save(machine: Machine, backup: BackupManager, epochs: int, content: str) -> None:
    machine.save(content)
    backup.saved(epochs)


def files(remote: Path) -> set[str]:
    return {path.name for path in (remote / "files").rglob("*") if path.is_file()}


def train_entry(machine: Machine) -> dict:
    return yaml.safe_load((machine.folder / "dvc.lock").read_text())["stages"]["train"]


def test_missing_remote_logs_one_warning(first: Machine, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    assert not first.backup().start()
    assert len(caplog.records) == 1
    assert "dvc remote add" in caplog.text
    assert git(first.folder, "status", "--porcelain") == ""


def test_outside_of_dvc_nothing_is_backed_up(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert not Machine(tmp_path).backup().start()
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"remote": "elsewhere"}, r"no DVC remote 'elsewhere'.*dvc remote add elsewhere"),
        ({"git_remote": "elsewhere"}, r"no Git remote 'elsewhere', only origin"),
    ],
)
def test_unknown_remote_is_an_error(first: Machine, remote: Path, settings: dict, message: str):
    first.use(remote)
    with pytest.raises(InputError, match=message):
        first.backup(**settings).start()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["missing", "a file", "wrong kind"])
def test_unwritable_remote_is_an_error_before_training(first: Machine, tmp_path: Path, kind: str):
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


def test_save_is_recorded_as_unfinished_state(first: Machine, remote: Path):
    first.use(remote)
    before = (git(first.folder, "rev-parse", "HEAD"), git(first.folder, "ls-files", "--stage"))
    (first.folder / "metrics/history.csv").write_text("epoch\n0\n")
    backup = first.backup()
    backup.start()
    first.save("one")
    backup.saved(3)
    backup.close(LONG)
    entry = train_entry(first)
    assert entry["params"]["params.yaml"]["train"]["epochs"] == 3
    assert {out["path"] for out in entry["outs"]} == {"checkpoints", "metrics/history.csv"}
    assert first.upload_log()["backups"][-1]["epochs"] == 3
    after = (git(first.folder, "rev-parse", "HEAD"), git(first.folder, "ls-files", "--stage"))
    assert after == before
    assert git(first.folder, "branch", "--list") == "* main"
    assert set(git(first.folder, "status", "--porcelain").split("\n")) == {
        "M dvc.lock", "?? metrics/history.csv",
    }  # fmt: skip
    held = git(first.folder, "ls-tree", "-r", "--name-only", f"refs/resume/main/{FINGERPRINT}")
    assert {"dvc.lock", "metrics/history.csv", "params.yaml"} <= set(held.split("\n"))


@pytest.mark.slow
def test_unfinished_state_is_never_recorded_as_finished(first: Machine, remote: Path):
    """For any number of epochs, also if results of a finished run exist."""
    (first.folder / "metrics/train.json").write_text("{}")
    backup = started(first, remote)
    for done in (0, 6):
        save(first, backup, done, "one")
        wait_for_uploads(backup)
        assert train_entry(first)["params"]["params.yaml"]["train"]["epochs"] == min(done, 5)
        assert "Running stage 'train'" in first("dvc", "repro", "--dry", "--allow-missing", "train")
    backup.close(LONG)


def test_edits_during_training_are_not_part_of_the_state(first: Machine, remote: Path):
    first.use(remote)
    first.set("train", learning_rate=0.004)
    backup = first.backup()
    backup.start()
    first.set("train", learning_rate=0.5)
    first.save("one")
    backup.saved(1)
    backup.close(LONG)
    assert train_entry(first)["params"]["params.yaml"]["train"]["learning_rate"] == 0.004
    held = git(first.folder, "show", f"refs/resume/main/{FINGERPRINT}:params.yaml")
    assert yaml.safe_load(held)["train"]["learning_rate"] == 0.004


@pytest.mark.slow
def test_save_does_not_wait_for_push(first: Machine, remote: Path):
    """One push runs at a time; the next one uploads the newest save."""
    backup = started(first, remote)
    save(first, backup, 1, "one")
    pushing = process(backup)
    pushing.suspend()
    for epochs, state in ((2, "two"), (3, "three")):
        save(first, backup, epochs, state)
        assert process(backup) == pushing
        assert first.epochs_backed_up() == 0
    pushing.resume()
    wait_for_uploads(backup)
    assert [item["epochs"] for item in first.upload_log()["backups"]] == [1, 3]
    backup.close(5)


@pytest.mark.slow
def test_failing_remote_is_logged_once_and_retried(
    first: Machine, remote: Path, caplog: pytest.LogCaptureFixture
):
    backup = started(first, remote)
    shutil.move(remote, remote.with_name("away"))
    remote.write_text("no folder")
    for epochs in (1, 2):
        save(first, backup, epochs, f"state {epochs}")
        while backup._failures < epochs:
            backup.poll()
            time.sleep(0.01)
    failures = [record for record in caplog.records if "backup failed" in record.message]
    assert len(failures) == 1
    assert "Not a directory" in failures[0].message
    backup.poll()
    assert backup._push is None  # until the next save
    remote.unlink()
    shutil.move(remote.with_name("away"), remote)
    backup.saved(2)
    wait_for_uploads(backup)
    assert first.epochs_backed_up() == 2
    backup.close(5)


@pytest.mark.slow
def test_finished_run_that_was_not_uploaded_is_reported(
    first: Machine, remote: Path, caplog: pytest.LogCaptureFixture
):
    """At the end of training, and by the doctor: DVC does not run the stage again."""
    backup = started(first, remote)
    shutil.move(remote, remote.with_name("away"))
    remote.touch()  # a file, so that the upload cannot create the folder again
    first.save("final")
    backup.saved(6, is_final=True)
    backup.close(1)
    assert "Training is complete and not uploaded again: run `dvc push`" in caplog.text
    remote.unlink()
    shutil.move(remote.with_name("away"), remote)
    for name in ("train.json", "history.csv"):
        (first.folder / "metrics" / name).write_text("{}")
    first("dvc", "commit", "--force", "train")

    def warnings() -> list[tuple[str, str]]:
        found = check_dvc_remote(DoctorContext(first.folder))
        return [(line.text, line.help) for line in found if "finished run" in line.text]

    missing = "results of the finished run are not on 'backup': checkpoints"
    assert warnings() == [(missing, "dvc push")]
    first("dvc", "push", "train")
    assert warnings() == []


@pytest.mark.slow
def test_stalled_push_is_stopped(first: Machine, remote: Path, monkeypatch: pytest.MonkeyPatch):
    """A mounted remote may die in the middle of a push. `close` does not wait for it either."""
    monkeypatch.setattr(backup_manager, "STALL_TIMEOUT", 0.3)
    backup = started(first, remote)
    save(first, backup, 1, "one")
    pushing = process(backup)
    pushing.suspend()
    while backup._failures == 0:
        backup.poll()
        time.sleep(0.02)
    assert not pushing.is_running()
    save(first, backup, 2, "two")
    pushing = process(backup)
    backup.close(0.0)
    assert not pushing.is_running()
    first("dvc", "status")


@pytest.mark.slow
def test_stall_timeout_is_bounded_after_many_failures(
    first: Machine, remote: Path, monkeypatch: pytest.MonkeyPatch
):
    """After a weekend without network, a timeout that always doubles would never end."""
    backup = started(first, remote)
    backup._failures = 5000
    monkeypatch.setattr(backup_manager, "STALL_TIMEOUT", 0.02)
    save(first, backup, 1, "one")
    process(backup).suspend()
    while backup._failures == 5000:
        backup.poll()
        time.sleep(0.02)
    backup.close(LONG)
    assert first.epochs_backed_up() == 1


@pytest.mark.slow
def test_unkillable_push_does_not_block_close(
    first: Machine, remote: Path, monkeypatch: pytest.MonkeyPatch
):
    """A process may hang on a dead file system, such as a mounted Drive.

    DVC's lock stays free, so that the stage can end.
    """
    backup = started(first, remote)
    save(first, backup, 1, "one")
    held = process(backup)
    held.suspend()
    monkeypatch.setattr(push.os, "killpg", lambda *_: None)
    backup.close(0.0)
    first("dvc", "status")
    held.kill()
    held.wait()


@pytest.mark.slow
def test_push_exits_with_training(first: Machine, remote: Path):
    """Even if loader workers outlive a killed training."""
    first.use(remote)
    first.save("one")
    script = (
        "from pathlib import Path; import os, signal, time\n"
        "from multi_abnormality.backup.backup_manager import BackupManager\n"
        "from multi_abnormality.config.schema import BackupConfig as Settings\n"
        "s = Settings(remote=None, git_remote=None, keep_last=2, grace=1)\n"
        "b = BackupManager(s, Path(), '0123456789ab')\n"
        "b.start(); b.saved(1); os.write(1, str(b._push._process.pid).encode())\n"
        "if os.fork() == 0: os.close(1), os.close(2), time.sleep(999), os._exit(0)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    child = first.train("python", "-c", script)
    pid = int(child.communicate()[0])
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    assert first.epochs_backed_up() == 0


def test_killed_push_is_repeated(first: Machine, remote: Path, caplog: pytest.LogCaptureFixture):
    """The out-of-memory killer may kill it."""
    backup = started(first, remote)
    save(first, backup, 1, "one")
    process(backup).kill()
    while backup._failures == 0:
        backup.poll()
        time.sleep(0.02)
    assert "its process exited with -9" in caplog.text
    save(first, backup, 2, "two")
    wait_for_uploads(backup)
    assert first.epochs_backed_up() == 2
    backup.close(5)


def test_failed_start_of_a_push_does_not_stop_training(
    first: Machine, remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    backup = started(first, remote)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    save(first, backup, 1, "one")
    with pytest.raises(InputError, match=r"process can't be started: .*gone"):
        first.backup().start()
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert "backup failed" in caplog.text
    backup.saved(1)
    wait_for_uploads(backup)
    assert first.epochs_backed_up() == 1
    backup.close(5)


def test_hooks_signatures_a_stale_lock_and_missing_user_name_are_ignored(
    first: Machine, remote: Path
):
    first.use(remote)
    (first.folder / ".dvc/tmp/backup.index.lock").touch()
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
    backup.close(LONG)
    refs = git(first.folder, "ls-remote", "origin", "refs/heads/resume/*")
    assert refs.endswith(f"refs/heads/resume/main/{FINGERPRINT}")


def test_failing_git_remote_falls_back_to_bundle(
    first: Machine, remote: Path, origin: Path, caplog: pytest.LogCaptureFixture
):
    first.use(remote)
    shutil.rmtree(origin)
    backup = first.backup(git_remote="origin")
    backup.start()
    assert "can't be written, so resume commits go to the DVC remote" in caplog.text
    first.save("one")
    backup.saved(1)
    backup.close(LONG)
    assert len(list((remote / "resume/main" / FINGERPRINT).glob("*.bundle"))) == 1


def test_untracked_sources_log_a_warning(
    first: Machine, remote: Path, caplog: pytest.LogCaptureFixture
):
    first.use(remote)
    (first.folder / "src/multi_abnormality/models/new.py").write_text("")
    backup = first.backup()
    backup.start()
    backup.close(5)
    assert "not in Git" in caplog.text
    assert "src/multi_abnormality/models/new.py" in caplog.text


@pytest.mark.parametrize("git_remote", [None, pytest.param("origin", marks=pytest.mark.slow)])
def test_keep_last_deletes_only_own_superseded_states(
    first: Machine, remote: Path, git_remote: str | None
):
    """States of a branch, a tag, a stash and another project are kept."""
    first.use(remote)
    (remote / "files/md5/ab").mkdir(parents=True)
    (remote / "files/md5/ab" / ("c" * 30)).write_text("another project's")
    backup = first.backup(git_remote=git_remote, keep_last=1)
    backup.start()
    named: set[str] = {"c" * 30}
    for epochs, kind in enumerate(("branch", "tag", "stash", "superseded", "newest"), start=1):
        before = files(remote)
        save(first, backup, epochs, kind)
        wait_for_uploads(backup)
        if kind in ("branch", "tag"):
            git(first.folder, "commit", "--quiet", "--all", "--message", "Half a run")
            git(first.folder, kind, f"a-{kind}")
            git(first.folder, "reset", "--quiet", "--hard", "HEAD~")
        elif kind == "stash":
            git(first.folder, "stash", "--quiet")
        if kind in ("branch", "tag", "stash"):
            named |= files(remote) - before
    assert len(named) >= 1 + 3 * 2  # a file and its folder's list for each state
    assert named <= files(remote)
    assert len(files(remote) - named) == 2
    assert len(list((remote / "resume").rglob("*.bundle"))) == (0 if git_remote else 1)
    backup.close(5)
    # Deleted objects are uploaded again by a push.
    backup = first.backup()
    backup.start()
    save(first, backup, 6, "superseded")
    backup.close(LONG)
    assert first.upload_log()["backups"][-1]["bytes"] > 0
    assert "Everything is up to date" in first("dvc", "push", "train", "preprocess")


@pytest.mark.slow
def test_object_of_several_states_is_deleted_with_the_last_of_them(first: Machine, remote: Path):
    """The best checkpoint stays the same over many saves."""
    first.use(remote)
    backup = first.backup(keep_last=1)
    backup.start()
    best = first.folder / "checkpoints/best.ckpt"
    for epochs, content in enumerate(("old", "old", "new"), start=1):
        best.parent.mkdir(exist_ok=True)
        best.write_text(content)
        save(first, backup, epochs, f"state {epochs}")
        wait_for_uploads(backup)
        name = hashlib.md5(b"old").hexdigest()
        assert (remote / "files/md5" / name[:2] / name[2:]).exists() == (content == "old")
    backup.close(5)


def prune_one_object(folder: Path, run: str) -> bool:
    """Prune in another process that is killed after its first delete; return whether it was."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    try:
        remote = Remote(open_repository(folder), None)
        for owner, name in ((remote.fs, "remove"), (remote.cache, "delete")):
            delete = getattr(owner, name)
            setattr(
                owner, name,
                lambda path, delete=delete: (delete(path), os.kill(os.getpid(), signal.SIGKILL)),
            )  # fmt: skip
        log = UploadLog(folder / ".dvc/tmp/backup.json")
        prune(remote, repository_of(folder), log, run, 1, None)
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.slow
def test_kills_while_states_are_pruned_leave_the_newest(first: Machine, remote: Path):
    first.use(remote)
    backup = first.backup(keep_last=5)
    backup.start()
    for epochs in (1, 2, 3):
        save(first, backup, epochs, f"state {epochs}")
        wait_for_uploads(backup)
    backup.close(5)
    ((run, generations),) = first.upload_log()["runs"].items()
    *_, bundle = sorted((remote / "resume").rglob("*.bundle"))
    newest, before, kills = set(generations[-1]["objects"]), files(remote), 0
    opened = Remote(open_repository(first.folder), None)
    while prune_one_object(first.folder, run):
        kills += 1
        assert bundle.exists()
        assert not opened.missing_objects(newest)
        assert all(map(opened.cache.exists, newest))
    assert kills == 2 + 4 + 4  # bundles, and files and lists, on the remote and in the cache
    assert len(before - files(remote)) == 4
    assert len(first.upload_log()["runs"][run]) == 1


def test_stale_uploads_are_removed_after_a_day(first: Machine, remote: Path):
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
    backup.close(LONG)
    assert [len(list(folder.iterdir())) for folder in (objects, bundles)] == [1, 1]


@pytest.mark.slow
def test_failing_record_is_logged_and_retried(
    first: Machine, remote: Path, caplog: pytest.LogCaptureFixture
):
    """Another DVC command holds the lock temporarily."""
    backup = started(first, remote)
    held = first.folder / ".dvc/tmp/held"
    holder = first.train(
        "python", "-c",
        "import time\nfrom pathlib import Path\nfrom dvc.repo import Repo\n"
        "held = Path('.dvc/tmp/held')\n"
        "with Repo('.').lock:\n"
        "    held.touch()\n"
        "    while held.exists(): time.sleep(0.05)\n",
    )  # fmt: skip
    while not held.exists():
        time.sleep(0.05)
    save(first, backup, 1, "one")
    assert "backup failed" in caplog.text
    held.unlink()
    holder.communicate()
    save(first, backup, 2, "two")
    wait_for_uploads(backup)
    assert first.epochs_backed_up() == 2
    backup.close(5)


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["a warning", "a warning\\n", "."])
def test_output_of_libraries_does_not_corrupt_results(
    first: Machine, remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: str
):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, threading, time\n"
        "def print_on():\n"
        f"    while os.write(2, b'{noise}'): time.sleep(0.0005)\n"
        "if 'multi_abnormality.backup.push' in sys.orig_argv:\n"
        "    threading.Thread(target=print_on, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(push, "subprocess", subprocess)  # no fork, which imports nothing
    backup = started(first, remote)
    for epochs in (1, 2):
        first.save(f"state {epochs}")
        backup.saved(epochs)
        wait_for_uploads(backup)
    assert first.epochs_backed_up() == 2
    assert backup._failures == 0
    backup.close(10)
