"""Restore on another machine, from the backup alone."""

import hashlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml

import multi_abnormality
from machines import FINGERPRINT, LONG, Machine, git, leave_state
from multi_abnormality.backup.dvc_recorder import open_repository
from multi_abnormality.backup.object_verification import remotes_to_verify, verify_pulled
from multi_abnormality.config.schema import load_params
from multi_abnormality.runtime.run_fingerprint import identify
from multi_abnormality.utils.errors import InputError
from test_pipeline import ROOT, hashes

RESUME = ("python", "-m", "multi_abnormality", "resume")


def checkpoint(machine: Machine) -> str:
    return (machine.folder / "checkpoints/last.ckpt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("git_remote", [None, "origin"])
def test_clone_resumes_run_of_lost_machine(
    first: Machine, second: Machine, remote: Path, git_remote: str | None
):
    first.set("train", learning_rate=0.004)
    leave_state(first, remote, git_remote=git_remote)
    shutil.rmtree(first.folder)
    second.use(remote)
    head = git(second.folder, "rev-parse", "HEAD")
    index = git(second.folder, "ls-files", "--stage")
    output = second(*RESUME)
    assert "epochs done 3" in output
    assert ("the Git remote origin" in output) == (git_remote is not None)
    params = yaml.safe_load((second.folder / "params.yaml").read_text())
    assert params["train"]["learning_rate"] == 0.004
    assert (second.folder / "metrics/history.csv").read_text() == "epoch\none\n"
    assert git(second.folder, "rev-parse", "HEAD") == head
    assert git(second.folder, "ls-files", "--stage") == index
    assert "resume" not in git(second.folder, "branch", "--list")
    second("dvc", "pull", "--allow-missing")
    assert checkpoint(second) == "one"
    planned = second("dvc", "repro", "--dry", "--allow-missing", "train")
    assert "Stage 'preprocess' didn't change" in planned
    assert "Running stage 'train'" in planned
    assert "nothing new" in second(*RESUME)  # resuming again changes nothing


def test_non_default_remote(first: Machine, second: Machine, remote: Path, tmp_path: Path):
    for machine in (first, second):
        machine.use(tmp_path / "default")
        machine("dvc", "remote", "add", "--quiet", "--local", "other", str(remote))
    second.set("backup", remote="other")
    commit_and_push(second, "Back up elsewhere")
    git(first.folder, "pull", "--quiet")
    leave_state(first, remote, remote="other")
    second(*RESUME)
    second("dvc", "pull", "--allow-missing")
    assert checkpoint(second) == "one"


@pytest.mark.slow
def test_second_machine_prunes_backups_of_the_first(
    backed_up: Machine, second: Machine, remote: Path
):
    before = {path.name for path in (remote / "files").rglob("*") if path.is_file()}
    shutil.rmtree(backed_up.folder)
    second.use(remote)
    second(*RESUME)
    second("dvc", "pull", "--allow-missing")
    backup = second.backup(keep_last=1)
    backup.start()
    second.save("two")
    backup.saved(4)
    backup.close(LONG)
    after = {path.name for path in (remote / "files").rglob("*") if path.is_file()}
    assert len(before - after) == 2
    assert len(list((remote / "resume").rglob("*.bundle"))) == 1


def test_nothing_to_resume_is_not_an_error(second: Machine, remote: Path):
    second.use(remote)
    assert "nothing to resume" in second(*RESUME)
    assert git(second.folder, "status", "--porcelain") == ""
    second("dvc", "pull", "--allow-missing")


def test_missing_remote_is_an_error(second: Machine):
    assert "no DVC remote" in second(*RESUME, ok=False)


def test_unreadable_remote_is_an_error(second: Machine, origin: Path, remote: Path):
    """Otherwise training would restart and lose hours of work."""
    second.use(remote)
    shutil.rmtree(origin)
    assert "can't be read" in second(*RESUME, ok=False)


@pytest.mark.usefixtures("backed_up")
def test_local_changes_are_reported_and_kept(second: Machine, remote: Path):
    second.use(remote)
    data = second.folder / "data.dvc"
    data.write_text(data.read_text() + "# mine\n")
    assert "would overwrite:\n  - data.dvc\n" in second(*RESUME, ok=False)
    assert data.read_text().endswith("# mine\n")
    assert git(second.folder, "status", "--porcelain").split() == ["M", "data.dvc"]


@pytest.mark.usefixtures("backed_up")
def test_params_of_another_run_are_reported_and_kept(second: Machine, remote: Path):
    second.use(remote)
    second.set("train", learning_rate=0.5)
    second.set("data", test_fraction=0.5)
    second.set("preprocess", spacing=[9.0, 6.0, 6.0])
    second.set("model", dropout=0.25)
    path = second.folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(params | {"seed": 7}, sort_keys=False))
    before = path.read_text()
    output = second(*RESUME, ok=False)
    assert "describe different runs:\n  - " in output
    for key in (
        "train.learning_rate", "data.test_fraction", "preprocess.spacing", "model.dropout", "seed"
    ):  # fmt: skip
        assert f"\n  - {key}: " in output
    assert "git checkout -- params.yaml" in output
    assert path.read_text() == before
    assert git(second.folder, "status", "--porcelain").split() == ["M", "params.yaml"]


@pytest.mark.slow
def test_params_that_do_not_affect_the_run_are_merged(
    first: Machine, second: Machine, remote: Path
):
    first.set("train", learning_rate=0.004)
    first.set("machine", workers=0)
    leave_state(first, remote)
    second.use(remote)
    edits = {
        "machine": {"max_time": "5h"},
        "train": {"epochs": 9},
        "backup": {"keep_last": 5},
        "evaluate": {"n_bootstrap": 50},
    }
    for section, values in edits.items():
        second.set(section, **values)
    assert "epochs done 3" in second(*RESUME)
    params = yaml.safe_load((second.folder / "params.yaml").read_text())
    assert params["train"]["learning_rate"] == 0.004
    assert params["machine"]["workers"] != 0
    for section, values in edits.items():
        assert values.items() <= params[section].items()
    assert "nothing new" in second(*RESUME)


@pytest.mark.slow
def test_remote_in_tracked_config_is_not_a_local_change(
    first: Machine, second: Machine, remote: Path
):
    first("dvc", "remote", "add", "--quiet", "--default", "old", str(remote))
    first.use(remote)
    leave_state(first, remote)
    second("dvc", "remote", "add", "--quiet", "--default", "new", str(remote))
    second(*RESUME)
    assert "new" in (second.folder / ".dvc/config").read_text()
    second("dvc", "pull", "--allow-missing")
    assert checkpoint(second) == "one"


def commit_and_push(machine: Machine, message: str) -> None:
    git(machine.folder, "commit", "--quiet", "--all", "--message", message)
    git(machine.folder, "push", "--quiet", "origin", "main")


@pytest.mark.usefixtures("backed_up")
def test_newer_commits_of_branch_are_kept(second: Machine, remote: Path):
    second.use(remote)
    (second.folder / ".dvcignore").write_text("newer\n")
    commit_and_push(second, "Elsewhere")
    second(*RESUME)
    assert (second.folder / ".dvcignore").read_text() == "newer\n"
    assert "checkpoints" in (second.folder / "dvc.lock").read_text()


def test_conflicting_change_on_branch_is_an_error(first: Machine, second: Machine, remote: Path):
    first.set("train", learning_rate=0.004)
    leave_state(first, remote)
    second.use(remote)
    second.set("train", learning_rate=0.1)
    commit_and_push(second, "Another learning rate")
    output = second(*RESUME, ok=False)
    assert "  - train.learning_rate: 0.004 in the backup, 0.1 here\n" in output
    assert git(second.folder, "status", "--porcelain") == ""


@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.parametrize("unpushed", ["nothing", "parameters", "code"])
@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("branch", ["behind", "ahead"])
def test_lost_machine_with_unpushed_work(
    first: Machine, second: Machine, remote: Path, unpushed: str, edited: bool, branch: str
):
    """Unpushed commits, uncommitted parameters, and a branch that is behind or ahead."""
    (first.folder / "docs.txt").write_text("pushed later\n")
    git(first.folder, "add", "docs.txt")
    git(first.folder, "commit", "--quiet", "--message", "Pushed")
    git(first.folder, "push", "--quiet")
    if unpushed == "parameters":
        first.set("train", learning_rate=0.004)
        git(first.folder, "commit", "--quiet", "--all", "--message", "Learn faster")
    elif unpushed == "code":
        (first.folder / "tool.py").write_text("print()\n")
        git(first.folder, "add", "tool.py")
        git(first.folder, "commit", "--quiet", "--message", "Add a tool")
    if edited:
        first.set("train", weight_decay=0.01)
    leave_state(first, remote)
    shutil.rmtree(first.folder)
    second.use(remote)
    if branch == "ahead":
        git(second.folder, "pull", "--quiet")
        (second.folder / "more.txt").write_text("later\n")
        git(second.folder, "add", "more.txt")
        commit_and_push(second, "Later")
    head = git(second.folder, "rev-parse", "HEAD")
    if unpushed == "code":
        output = second(*RESUME, ok=False)
        assert "has other code than this clone:\n  - " in output
        assert "tool.py\n" in output
        assert "Add a tool" in output
        assert git(second.folder, "status", "--porcelain") == ""
    flags = ["--allow-code-changes"] if unpushed == "code" or branch == "behind" else []
    output = second(*RESUME, *flags)
    assert "epochs done 3" in output
    assert ("the backup builds on commits that this branch lacks" in output) == (
        unpushed != "nothing" or branch == "behind"
    )
    assert ("this branch has newer commits" in output) == (branch == "ahead")
    params = yaml.safe_load((second.folder / "params.yaml").read_text())["train"]
    assert (params["learning_rate"] == 0.004) == (unpushed == "parameters")
    assert (params["weight_decay"] == 0.01) == edited
    assert (second.folder / "tool.py").exists() == (unpushed == "code")
    assert (second.folder / "more.txt").exists() == (branch == "ahead")
    assert git(second.folder, "rev-parse", "HEAD") == head
    second("dvc", "pull", "--allow-missing")
    assert checkpoint(second) == "one"


@pytest.mark.slow
def test_commit_that_edits_comments_is_no_obstacle(first: Machine, second: Machine, remote: Path):
    """Except in code of preprocessing, which would run again."""
    params = load_params(first.folder / "params.yaml")
    package = Path(multi_abnormality.__file__).parent
    leave_state(first, remote, identity=identify(params, ["Cyst"], "0" * 64, package))
    second.use(remote)
    for name in ("training/losses.py", "data/storage/shards.py"):
        file = second.folder / "src/multi_abnormality" / name
        file.write_text(file.read_text() + "# a comment\n")
        commit_and_push(second, "Add a comment")
        output = second(*RESUME, ok=name.startswith("training"))
    assert "code that affects the result differs" in output
    assert "data/storage/shards.py\n" in output
    assert "losses.py" not in output


@pytest.mark.usefixtures("backed_up")
def test_changed_data_is_an_error(second: Machine, remote: Path):
    """Other scans on the branch would start a new run."""
    second.use(remote)
    lock = yaml.safe_load((second.folder / "dvc.lock").read_text())
    source = lock["stages"]["preprocess"]["deps"][0]["path"]
    assert source == "data"
    data = second.folder / "data.dvc"
    data.write_text(data.read_text() + "# another\n")
    commit_and_push(second, "Other scans")
    output = second(*RESUME, ok=False)
    assert "code that affects the result differs" in output
    assert "  - data.dvc\n" in output
    assert "git switch --create resumed" in output
    second.set("machine", allow_code_changes=True)
    assert "epochs done 3" in second(*RESUME)


@pytest.mark.slow
def test_different_fingerprint_is_an_error(first: Machine, second: Machine, remote: Path):
    """The package may be installed elsewhere, in another version."""
    params = load_params(first.folder / "params.yaml")
    package = Path(multi_abnormality.__file__).parent
    identity = identify(params, ["Cyst"], "0" * 64, package)
    identity["code"]["model/gone.py"] = "0" * 64
    leave_state(first, remote, identity=identity)
    second.use(remote)
    assert "  - model/gone.py: changed\n" in second(*RESUME, ok=False)
    second.set("machine", allow_code_changes=True)
    assert "epochs done 3" in second(*RESUME)


def test_rewritten_history_is_an_error(first: Machine, second: Machine, remote: Path):
    """`git fetch` can't help."""
    (first.folder / ".dvcignore").write_text("first\n")
    commit_and_push(first, "To be rewritten")
    leave_state(first, remote)
    git(first.folder, "commit", "--quiet", "--amend", "--message", "Rewritten")
    git(first.folder, "push", "--quiet", "--force")
    shutil.rmtree(first.folder)
    git(second.folder, "pull", "--quiet", "--rebase")
    second.use(remote)
    output = second(*RESUME, ok=False)
    assert "history was rewritten since the backup" in output
    assert "unshallow" not in output


def test_outdated_clone_fetches_history(first: Machine, second: Machine, remote: Path):
    first.set("train", learning_rate=0.004)
    commit_and_push(first, "Learn faster")
    leave_state(first, remote)
    second.use(remote)
    assert "params.yaml" in second(*RESUME)
    params = yaml.safe_load((second.folder / "params.yaml").read_text())
    assert params["train"]["learning_rate"] == 0.004


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


def object_of(remote: Path, content: bytes) -> Path:
    (found,) = (path for path in (remote / "files").rglob("*")
                if path.is_file() and path.read_bytes() == content)  # fmt: skip
    return found


@pytest.mark.slow
def test_damaged_checkpoint_on_remote_is_not_restored(
    backed_up: Machine, second: Machine, remote: Path
):
    """It is deleted, so that the next push uploads it again; DVC checks names only."""
    leave_state(backed_up, remote, "two")
    damaged = object_of(remote, b"two")
    flip(damaged)
    second.use(remote)
    output = second(*RESUME)
    assert "last.ckpt is damaged on the remote" in output
    assert "the damaged objects were deleted there" in output
    assert not damaged.exists()
    second("dvc", "pull", "--allow-missing")
    assert checkpoint(second) == "one"
    backup = second.backup()
    backup.start()
    second.save("two")
    backup.saved(4)
    backup.close(LONG)
    assert damaged.read_bytes() == b"two"


@pytest.mark.usefixtures("backed_up")
def test_only_damaged_checkpoints_is_an_error(second: Machine, remote: Path):
    flip(object_of(remote, b"one"))
    second.use(remote)
    assert "none of the resume states" in second(*RESUME, ok=False)


def alter_a_label(machine: Machine, remote: Path) -> tuple[Path, bytes]:
    """Change a label on the remote; return the object and its former content."""
    labels = (machine.folder / "processed/labels.csv").read_bytes()
    damaged = object_of(remote, labels)
    damaged.chmod(0o644)
    damaged.write_bytes(labels.replace(b",0", b",1", 1))
    damaged.chmod(0o444)
    return damaged, labels


def test_altered_label_on_remote_is_an_error(backed_up: Machine, second: Machine, remote: Path):
    alter_a_label(backed_up, remote)
    second.use(remote)
    output = second(*RESUME, ok=False)
    assert "labels.csv is damaged on the remote" in output


@pytest.mark.slow
def test_unverified_pull_is_verified_before_training(first: Machine, second: Machine, remote: Path):
    """With `dvc pull` and `dvc repro` only, from an altered folder remote."""
    first.use(remote)
    first("dvc", "push", "--quiet", "preprocess")
    damaged, labels = alter_a_label(first, remote)
    second.use(remote)
    second("dvc", "pull", "--quiet", "--allow-missing")
    assert (second.folder / "processed/labels.csv").read_bytes() != labels
    output = second("dvc", "repro", "--allow-missing", ok=False)
    assert "damaged or changed since they were made: processed/labels.csv" in output
    assert "verify = true" in (second.folder / ".dvc/config.local").read_text()
    assert not (second.folder / "processed/labels.csv").exists()
    second("dvc", "pull", "--allow-missing")  # the remote's own copy is damaged
    assert not (second.folder / "processed/labels.csv").exists()
    damaged.chmod(0o644)
    damaged.write_bytes(labels)
    second("dvc", "pull", "--allow-missing")
    assert (second.folder / "processed/labels.csv").read_bytes() == labels


def test_edit_through_link_to_cache_is_kept(
    first: Machine, remote: Path, monkeypatch: pytest.MonkeyPatch
):
    """The object counts as damaged, but is the only copy of a user's edit."""
    first.use(remote)
    monkeypatch.chdir(first.folder)
    repo = open_repository(first.folder)
    labels = first.folder / "processed/labels.csv"
    name = hashlib.md5(labels.read_bytes()).hexdigest()
    cached = Path(repo.cache.local.oid_to_path(name))
    cached.chmod(0o644)
    labels.unlink()
    labels.hardlink_to(cached)
    with labels.open("a") as file:
        file.write("mine\n")
    with pytest.raises(InputError, match=r"processed/labels.csv.*\.dvc/tmp/damaged"):
        verify_pulled(first.folder)
    kept = first.folder / ".dvc/tmp/damaged/processed/labels.csv"
    assert kept.read_text().endswith("mine\n")
    assert not cached.exists()
    verify_pulled(first.folder)  # from now on, DVC verifies


def test_global_remote_is_verified(
    first: Machine, remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "config"))
    (tmp_path / "config").mkdir()
    text = f"[core]\nremote = backup\n['remote \"backup\"']\nurl = {remote}\n"
    (tmp_path / "config/config").write_text(text)
    assert remotes_to_verify(first.folder) == ["backup"]
    verify_pulled(first.folder)
    assert "verify = true" in (first.folder / ".dvc/config.local").read_text()
    assert remotes_to_verify(first.folder) == []


@pytest.mark.usefixtures("backed_up")
def test_forged_generations_delete_nothing_from_cache(second: Machine, remote: Path):
    """Objects that a state claims as its own are deleted when it is superseded."""
    second.use(remote)
    second(*RESUME)
    for generation in second.upload_log()["runs"][f"main/{FINGERPRINT}"]:
        folder = generation["objects"][0]
        assert folder.endswith(".dir")
        assert set(generation["own"]) <= set(generation["objects"])


def test_resume_commit_contains_no_address(first: Machine, remote: Path):
    """It may be pushed to a public Git remote."""
    first("dvc", "remote", "add", "--quiet", "--default", "backup", str(remote))
    leave_state_of(first)
    commit = git(first.folder, "rev-parse", f"refs/resume/main/{FINGERPRINT}")
    shown = git(first.folder, "show", "--format=%B", commit)
    upload_log = (first.folder / ".dvc/tmp/backup.json").read_text()
    for text in (shown, upload_log):
        assert str(remote) not in text
        assert str(first.folder) not in text


def leave_state_of(machine: Machine) -> None:
    backup = machine.backup()
    backup.start()
    machine.save("one")
    backup.saved(3)
    backup.close(LONG)


def test_finished_run_is_not_resumed(backed_up: Machine, second: Machine, remote: Path):
    lock = yaml.safe_load((backed_up.folder / "dvc.lock").read_text())
    entry = lock["stages"]["train"]
    entry["params"]["params.yaml"]["train"]["epochs"] = 6
    entry["outs"].append({"path": "metrics/train.json", "hash": "md5", "md5": "0" * 32, "size": 1})
    (backed_up.folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    commit_and_push(backed_up, "Finished")
    git(second.folder, "pull", "--quiet")
    second.use(remote)
    assert "is finished" in second(*RESUME)
    assert git(second.folder, "status", "--porcelain") == ""


@pytest.mark.slow
def test_incomplete_state_is_skipped(backed_up: Machine, second: Machine, remote: Path):
    earlier = {path for path in (remote / "files").rglob("*") if path.is_file()}
    leave_state(backed_up, remote, "two")
    for path in (remote / "files").rglob("*"):
        if path.is_file() and path not in earlier:
            path.unlink()
    second.use(remote)
    output = second(*RESUME)
    assert "is skipped" in output
    second("dvc", "pull", "--allow-missing")
    assert checkpoint(second) == "one"


@pytest.mark.slow
def test_damaged_bundle_is_skipped(backed_up: Machine, second: Machine, remote: Path):
    leave_state(backed_up, remote, "two")
    newest = sorted((remote / "resume").rglob("*.bundle"))[-1]
    newest.write_bytes(newest.read_bytes()[:200])
    second.use(remote)
    assert f"{newest.name} is skipped" in second(*RESUME)
    second("dvc", "pull", "--allow-missing")
    assert checkpoint(second) == "one"


def test_shallow_clone_is_an_error(backed_up: Machine, remote: Path, tmp_path: Path):
    """A shallow clone lacks commits that the bundle builds on."""
    (backed_up.folder / ".dvcignore").write_text("later\n")
    commit_and_push(backed_up, "Later")
    url = (tmp_path / "origin.git").as_uri()
    git(tmp_path, "clone", "--quiet", "--depth", "1", url, "shallow machine")
    shallow = Machine(tmp_path / "shallow machine")
    shallow.use(remote)
    output = shallow(*RESUME, ok=False)
    assert "is skipped" in output
    assert "git fetch --unshallow" in output
    git(shallow.folder, "fetch", "--quiet", "--unshallow")
    assert "epochs done 3" in shallow(*RESUME)


@pytest.mark.slow
def test_unpushed_commits_are_in_the_bundle(first: Machine, second: Machine, remote: Path):
    """Also one in which a file takes the place of a folder."""
    folder = first.folder / "notes"
    folder.mkdir()
    (folder / "today").write_text("")
    git(first.folder, "add", "notes")
    commit_and_push(first, "Published")
    git(second.folder, "pull", "--quiet")
    shutil.rmtree(folder)
    folder.write_text("mine")
    git(first.folder, "add", "notes")
    git(first.folder, "commit", "--quiet", "--message", "Unpublished")
    leave_state(first, remote)
    second.use(remote)
    second(*RESUME, "--allow-code-changes")
    assert git(second.folder, "show", f"refs/resume/main/{FINGERPRINT}:notes") == "mine"
    assert (second.folder / "notes").read_text() == "mine"


@pytest.mark.usefixtures("backed_up")
def test_run_can_be_selected(second: Machine, remote: Path):
    second.use(remote)
    assert f"run {FINGERPRINT}, epochs done 3" in second(*RESUME, "--run", "other", ok=False)
    assert "epochs done 3" in second(*RESUME, "--run", FINGERPRINT)


def test_checkpoints_newer_than_backup_are_kept(backed_up: Machine):
    """Kill between save and push, then `make resume` on the same machine."""
    backed_up.save("newer")
    assert "are kept" in backed_up(*RESUME)
    backed_up("dvc", "pull", "--allow-missing")
    assert checkpoint(backed_up) == "newer"
    assert "Running stage 'train'" in backed_up("dvc", "repro", "--dry", "--allow-missing", "train")


@pytest.mark.slow
@pytest.mark.parametrize("git_remote", [None, pytest.param("origin", marks=pytest.mark.drill)])
def test_lost_machine_costs_at_most_one_save(
    first: Machine, second: Machine, remote: Path, tmp_path: Path, git_remote: str | None
):
    """Kill training, delete the machine, clone, resume; the result has the same bytes."""
    first.train_longer()
    shutil.copytree(first.folder, tmp_path / "undisturbed", symlinks=True)
    undisturbed = Machine(tmp_path / "undisturbed")
    undisturbed("dvc", "repro")
    first.use(remote)
    first.set("backup", git_remote=git_remote)
    first.kill_after(2)
    shutil.rmtree(first.folder)
    second.use(remote)
    second(*RESUME)
    second("dvc", "pull", "--allow-missing")
    output = second("dvc", "repro", "--allow-missing")
    assert "resuming from checkpoints/" in output
    assert hashes(second.folder) == hashes(undisturbed.folder)
    assert "Running stage" not in second("dvc", "repro", "--allow-missing", "--dry")
    second.set("backup", git_remote=None)
    second("dvc", "push", "--quiet", "train")


@pytest.mark.slow
def test_preprocessing_survives_loss_before_first_save(
    first: Machine, second: Machine, remote: Path
):
    """It may take hours, and the new machine may have no scans."""
    git(first.folder, "reset", "--quiet", "--hard", "HEAD~")  # dvc.lock without preprocess
    git(first.folder, "push", "--quiet", "--force", "origin", "main")
    git(second.folder, "pull", "--quiet", "--rebase")
    git(second.folder, "reset", "--quiet", "--hard", "origin/main")
    first.set("train", epochs=60, early_stopping_patience=60, save_every_n_epochs=50)
    first.use(remote)
    process = first.train()
    while not any(backup["epochs"] == 0 for backup in first.upload_log()["backups"]):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    shutil.rmtree(first.folder)
    second.use(remote)
    assert "epochs done 0" in second(*RESUME)
    second("dvc", "pull", "--allow-missing")
    planned = second("dvc", "repro", "--dry", "--allow-missing", "train")
    assert "Stage 'preprocess' didn't change" in planned
    assert "Running stage 'train'" in planned


@pytest.mark.slow
@pytest.mark.drill
def test_finished_run_without_objects_is_resumed(
    first: Machine, second: Machine, remote: Path, tmp_path: Path
):
    """The committed dvc.lock records results that were never pushed, so the run is resumed."""
    first.train_longer()
    first("dvc", "repro")
    git(first.folder, "add", "--all")
    git(first.folder, "commit", "--quiet", "--message", "Trained")
    git(first.folder, "push", "--quiet")
    lost = Machine(tmp_path / "lost machine")
    git(tmp_path, "clone", "--quiet", str(tmp_path / "origin.git"), lost.folder.name)
    shutil.copytree(first.folder / "data", lost.folder / "data")
    lost.use(remote)
    lost.kill_after(2)
    shutil.rmtree(lost.folder)
    git(second.folder, "pull", "--quiet")
    second.use(remote)
    assert "resuming run" in second(*RESUME)
    second("dvc", "pull", "--allow-missing")
    assert "resuming from checkpoints/" in second("dvc", "repro", "--allow-missing")
    assert hashes(second.folder) == hashes(first.folder)
    assert "that run is finished" in second(*RESUME)


@pytest.mark.slow
@pytest.mark.drill
def test_make_resume_resumes_or_starts(first: Machine, second: Machine, remote: Path):
    """With an existing environment. A stopped run exits with 75."""
    for machine in (first, second):
        for name in ("Makefile", "requirements.txt", "pyproject.toml"):
            shutil.copy(ROOT / name, machine.folder)
        (machine.folder / ".venv").mkdir()
        (machine.folder / ".venv/installed").touch()
        machine.use(remote)
    first.train_longer()
    first.set("machine", max_time="10s")  # a busy machine needs some before the first step
    stopped = first("make", "resume", ok=False)
    assert "nothing to resume" in stopped
    assert "stopped, since its time budget is used up" in stopped
    assert "Error 75" in stopped
    first.set("machine", max_time=None)
    started = first("make", "repro")
    assert "resuming from checkpoints/" in started
    assert "The report is metrics/report.html" in started
    shutil.rmtree(first.folder)
    resumed = second("make", "resume")
    assert "is of a finished training" in resumed
    assert "The report is metrics/report.html" in resumed


@pytest.mark.slow
@pytest.mark.drill
def test_same_machine_resumes_after_a_kill(first: Machine, remote: Path):
    """`make resume` keeps checkpoints that are newer than the backup."""
    first.train_longer()
    first.use(remote)
    first.kill_after(2)
    first(*RESUME)
    first("dvc", "pull", "--allow-missing")
    assert "resuming from checkpoints/" in first("dvc", "repro", "--allow-missing")


@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.parametrize("options", [("--temp",), ()])
def test_experiments_are_backed_up(first: Machine, remote: Path, options: tuple[str, ...]):
    first.use(remote)
    first("dvc", "exp", "run", *options, "--name", "faster", "-S", "train.learning_rate=4e-3")
    assert list((remote / "resume").rglob("*.bundle"))
    assert "faster" in first("dvc", "exp", "list", "--name-only")
    first("dvc", "exp", "apply", "faster")
    assert "Running stage" not in first("dvc", "repro", "--dry")
