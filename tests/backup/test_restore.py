"""A machine vanishes; another goes on from what was sent alone."""

import hashlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml

import multi_abnormality
from machines import FINGERPRINT, Machine, git
from multi_abnormality.backup.record import open_repository
from multi_abnormality.backup.verification import remotes_to_verify, verify_pulled
from multi_abnormality.errors import InputError
from multi_abnormality.params import load_params
from multi_abnormality.run_fingerprint import identify
from test_pipeline import ROOT, hashes

RESUME = ("python", "-m", "multi_abnormality.resume")


def leave_state(machine: Machine, place: Path, content: str = "one", **settings: object) -> None:
    """Half a training, backed up."""
    if not (machine.folder / ".dvc/config.local").exists():
        machine.use(place)
    backup = machine.backup(**settings)
    backup.start()
    machine.save(content)
    (machine.folder / "metrics/history.csv").write_text(f"epoch\n{content}\n")
    backup.saved(3)
    backup.close(30)


def checkpoint(machine: Machine) -> str:
    return (machine.folder / "checkpoints/last.ckpt").read_text()


@pytest.mark.parametrize("git_remote", [None, "origin"])
def test_a_clone_goes_on_where_the_lost_machine_was(
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
    assert "nothing new" in second(*RESUME)  # asking again changes nothing


def test_another_remote_than_the_default_one_serves(
    first: Machine, second: Machine, remote: Path, tmp_path: Path
):
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


def test_the_second_machine_tidies_up_after_the_first(
    first: Machine, second: Machine, remote: Path
):
    leave_state(first, remote)
    before = {path.name for path in (remote / "files").rglob("*") if path.is_file()}
    shutil.rmtree(first.folder)
    second.use(remote)
    second(*RESUME)
    second("dvc", "pull", "--allow-missing")
    backup = second.backup(keep=1)
    backup.start()
    second.save("two")
    backup.saved(4)
    backup.close(30)
    after = {path.name for path in (remote / "files").rglob("*") if path.is_file()}
    assert len(before - after) == 2
    assert len(list((remote / "resume").rglob("*.bundle"))) == 1


def test_nothing_to_resume_is_no_error(second: Machine, remote: Path):
    second.use(remote)
    assert "nothing to resume" in second(*RESUME)
    assert git(second.folder, "status", "--porcelain") == ""
    second("dvc", "pull", "--allow-missing")


def test_without_a_remote_it_says_so(second: Machine):
    assert "no DVC remote" in second(*RESUME, ok=False)


def test_a_remote_that_cannot_be_asked_is_an_error(second: Machine, origin: Path, remote: Path):
    """Else training would start anew, hours into it."""
    second.use(remote)
    shutil.rmtree(origin)
    assert "can't be asked" in second(*RESUME, ok=False)


def test_local_changes_are_named_and_kept(first: Machine, second: Machine, remote: Path):
    leave_state(first, remote)
    second.use(remote)
    data = second.folder / "data.dvc"
    data.write_text(data.read_text() + "# mine\n")
    assert "would overwrite:\n  - data.dvc\n" in second(*RESUME, ok=False)
    assert data.read_text().endswith("# mine\n")
    assert git(second.folder, "status", "--porcelain").split() == ["M", "data.dvc"]


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("train", {"learning_rate": 0.5}),
        ("seed", 7),
        ("data", {"valid_fraction": 0.5}),
        ("preprocess", {"spacing": [9.0, 6.0, 6.0]}),
        ("model", {"dropout": 0.25}),
    ],
)
def test_params_of_another_run_are_named_and_kept(
    first: Machine, second: Machine, remote: Path, section: str, values: object
):
    leave_state(first, remote)
    second.use(remote)
    edit(second, section, values)
    before = (second.folder / "params.yaml").read_text()
    output = second(*RESUME, ok=False)
    key = f"{section}.{next(iter(values))}" if isinstance(values, dict) else section
    assert f"describe two runs:\n  - {key}: " in output
    assert "git checkout -- params.yaml" in output
    assert (second.folder / "params.yaml").read_text() == before
    assert git(second.folder, "status", "--porcelain").split() == ["M", "params.yaml"]


def edit(machine: Machine, section: str, values: object) -> None:
    path = machine.folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params[section] = params[section] | values if isinstance(values, dict) else values
    path.write_text(yaml.safe_dump(params, sort_keys=False))


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("machine", {"time_budget": "5h"}),
        ("backup", {"keep": 5}),
        ("train", {"epochs": 9}),
        ("evaluate", {"resamples": 50}),
    ],
)
def test_params_that_change_no_run_are_merged(
    first: Machine, second: Machine, remote: Path, section: str, values: dict
):
    first.set("train", learning_rate=0.004)
    first.set("machine", workers=0)
    leave_state(first, remote)
    second.use(remote)
    edit(second, section, values)
    assert "epochs done 3" in second(*RESUME)
    params = yaml.safe_load((second.folder / "params.yaml").read_text())
    assert params["train"]["learning_rate"] == 0.004
    assert params["machine"]["workers"] != 0
    assert values.items() <= params[section].items()
    assert "nothing new" in second(*RESUME)


def test_a_remote_in_the_tracked_config_is_no_local_change(
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


def test_a_branch_that_moved_on_keeps_its_commits(first: Machine, second: Machine, remote: Path):
    leave_state(first, remote)
    second.use(remote)
    (second.folder / ".dvcignore").write_text("moved on\n")
    commit_and_push(second, "Elsewhere")
    second(*RESUME)
    assert (second.folder / ".dvcignore").read_text() == "moved on\n"
    assert "checkpoints" in (second.folder / "dvc.lock").read_text()


def test_a_branch_that_changed_the_same_key_is_left_alone(
    first: Machine, second: Machine, remote: Path
):
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
def test_a_lost_machine_with_work_of_its_own(
    first: Machine, second: Machine, remote: Path, unpushed: str, edited: bool, branch: str
):
    """Commits that were never pushed, uncommitted parameters, and a branch that is not the same."""
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


def test_code_that_decides_the_result_must_be_the_backups(
    first: Machine, second: Machine, remote: Path
):
    """A branch with a newer training would train another model from the start."""
    leave_state(first, remote)
    second.use(remote)
    lock = yaml.safe_load((second.folder / "dvc.lock").read_text())
    source = lock["stages"]["preprocess"]["deps"][0]["path"]
    assert source == "data"
    data = second.folder / "data.dvc"
    data.write_text(data.read_text() + "# another\n")
    commit_and_push(second, "Other scans")
    output = second(*RESUME, ok=False)
    assert "code that decides the result differs" in output
    assert "  - data.dvc\n" in output
    assert "git switch --create resumed" in output
    second.set("machine", accept_changed_code=True)
    assert "epochs done 3" in second(*RESUME)


def test_the_fingerprint_is_compared(first: Machine, second: Machine, remote: Path):
    """The package may be installed elsewhere, in another version than the backup's."""
    params = load_params(first.folder / "params.yaml")
    package = Path(multi_abnormality.__file__).parent
    identity = identify(params, ["Cyst"], "0" * 64, package)
    leave_state(first, remote, identity=identity)
    second.use(remote)
    assert "epochs done 3" in second(*RESUME)
    identity["code"]["model/gone.py"] = "0" * 64
    leave_state(first, remote, "two", identity=identity)
    assert "  - model/gone.py: changed\n" in second(*RESUME, ok=False)
    second.set("machine", accept_changed_code=True)
    assert "epochs done 3" in second(*RESUME)


def test_a_rewritten_history_is_named(first: Machine, second: Machine, remote: Path):
    """`git fetch` can't help there."""
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


def test_a_clone_that_is_older_than_the_backup_fetches(
    first: Machine, second: Machine, remote: Path
):
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


def test_a_damaged_checkpoint_on_the_remote_is_not_restored(
    first: Machine, second: Machine, remote: Path
):
    """And the next push sends it again: DVC goes by the name alone."""
    leave_state(first, remote, "one")
    leave_state(first, remote, "two")
    damaged = object_of(remote, b"two")
    flip(damaged)
    second.use(remote)
    output = second(*RESUME)
    assert "last.ckpt is damaged on the remote" in output
    assert "what is damaged was removed there" in output
    assert not damaged.exists()
    second("dvc", "pull", "--allow-missing")
    assert checkpoint(second) == "one"
    backup = second.backup()
    backup.start()
    second.save("two")
    backup.saved(4)
    backup.close(30)
    assert damaged.read_bytes() == b"two"


def test_where_every_checkpoint_is_damaged_nothing_starts_anew(
    first: Machine, second: Machine, remote: Path
):
    leave_state(first, remote)
    flip(object_of(remote, b"one"))
    second.use(remote)
    assert "none of the resume states" in second(*RESUME, ok=False)


def alter_a_label(machine: Machine, remote: Path) -> tuple[Path, bytes]:
    """Change one label on the remote; the object, and what it held before."""
    labels = (machine.folder / "processed/labels.csv").read_bytes()
    damaged = object_of(remote, labels)
    damaged.chmod(0o644)
    damaged.write_bytes(labels.replace(b",0", b",1", 1))
    damaged.chmod(0o444)
    return damaged, labels


def test_an_altered_label_on_the_remote_is_not_trained_on(
    first: Machine, second: Machine, remote: Path
):
    leave_state(first, remote)
    alter_a_label(first, remote)
    second.use(remote)
    output = second(*RESUME, ok=False)
    assert "labels.csv is damaged on the remote" in output


def test_what_dvc_pulled_unverified_is_checked_before_training(
    first: Machine, second: Machine, remote: Path
):
    """`dvc pull` and `dvc repro` alone, from a folder that somebody wrote to."""
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


def test_an_edit_through_a_link_to_the_cache_is_kept(
    first: Machine, remote: Path, monkeypatch: pytest.MonkeyPatch
):
    """DVC calls the object damaged, and it is the only copy of what a person wrote."""
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
    verify_pulled(first.folder)  # once: DVC checks from now on


def test_a_remote_of_all_projects_is_verified_too(
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


def test_a_forged_history_deletes_nothing_from_the_cache(
    first: Machine, second: Machine, remote: Path
):
    """What a state says that its run made is deleted later, when it is superseded."""
    leave_state(first, remote)
    second.use(remote)
    second(*RESUME)
    for generation in second.ledger()["runs"][f"main/{FINGERPRINT}"]:
        folder = generation["objects"][0]
        assert folder.endswith(".dir")
        assert set(generation["own"]) <= set(generation["objects"])


def test_a_resume_commit_holds_no_address(first: Machine, remote: Path):
    """It may be pushed to a public Git remote."""
    first("dvc", "remote", "add", "--quiet", "--default", "backup", str(remote))
    leave_state_of(first)
    commit = git(first.folder, "rev-parse", f"refs/resume/main/{FINGERPRINT}")
    shown = git(first.folder, "show", "--format=%B", commit)
    ledger = (first.folder / ".dvc/tmp/backup.json").read_text()
    for text in (shown, ledger):
        assert str(remote) not in text
        assert str(first.folder) not in text


def leave_state_of(machine: Machine) -> None:
    backup = machine.backup()
    backup.start()
    machine.save("one")
    backup.saved(3)
    backup.close(30)


def test_a_finished_training_is_not_undone(first: Machine, second: Machine, remote: Path):
    leave_state(first, remote)
    lock = yaml.safe_load((first.folder / "dvc.lock").read_text())
    entry = lock["stages"]["train"]
    entry["params"]["params.yaml"]["train"]["epochs"] = 6
    entry["outs"].append({"path": "metrics/train.json", "hash": "md5", "md5": "0" * 32, "size": 1})
    (first.folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    commit_and_push(first, "Finished")
    git(second.folder, "pull", "--quiet")
    second.use(remote)
    assert "is finished" in second(*RESUME)
    assert git(second.folder, "status", "--porcelain") == ""


def test_a_state_whose_objects_did_not_arrive_makes_way_for_the_one_before(
    first: Machine, second: Machine, remote: Path
):
    leave_state(first, remote, "one")
    earlier = {path for path in (remote / "files").rglob("*") if path.is_file()}
    leave_state(first, remote, "two")
    for path in (remote / "files").rglob("*"):
        if path.is_file() and path not in earlier:
            path.unlink()
    second.use(remote)
    output = second(*RESUME)
    assert "is skipped" in output
    second("dvc", "pull", "--allow-missing")
    assert checkpoint(second) == "one"


def test_a_damaged_bundle_is_skipped(first: Machine, second: Machine, remote: Path):
    leave_state(first, remote, "one")
    leave_state(first, remote, "two")
    newest = sorted((remote / "resume").rglob("*.bundle"))[-1]
    newest.write_bytes(newest.read_bytes()[:200])
    second.use(remote)
    assert f"{newest.name} is skipped" in second(*RESUME)
    second("dvc", "pull", "--allow-missing")
    assert checkpoint(second) == "one"


def test_where_no_bundle_can_be_read_nothing_starts_anew(
    first: Machine, remote: Path, tmp_path: Path
):
    """A clone without history lacks what the bundle builds on."""
    leave_state(first, remote)
    (first.folder / ".dvcignore").write_text("later\n")
    commit_and_push(first, "Later")
    url = (tmp_path / "origin.git").as_uri()
    git(tmp_path, "clone", "--quiet", "--depth", "1", url, "shallow machine")
    shallow = Machine(tmp_path / "shallow machine")
    shallow.use(remote)
    output = shallow(*RESUME, ok=False)
    assert "is skipped" in output
    assert "git fetch --unshallow" in output
    git(shallow.folder, "fetch", "--quiet", "--unshallow")
    assert "epochs done 3" in shallow(*RESUME)


def test_commits_that_were_never_pushed_travel_in_the_bundle(
    first: Machine, second: Machine, remote: Path
):
    (first.folder / "notes.txt").write_text("mine")
    git(first.folder, "add", "notes.txt")
    git(first.folder, "commit", "--quiet", "--message", "Unpublished")
    leave_state(first, remote)
    second.use(remote)
    second(*RESUME, "--allow-code-changes")
    assert git(second.folder, "show", f"refs/resume/main/{FINGERPRINT}:notes.txt") == "mine"
    assert (second.folder / "notes.txt").read_text() == "mine"


def test_a_run_can_be_named(first: Machine, second: Machine, remote: Path):
    leave_state(first, remote)
    second.use(remote)
    assert f"run {FINGERPRINT}, epochs done 3" in second(*RESUME, "--run", "other", ok=False)
    assert "epochs done 3" in second(*RESUME, "--run", FINGERPRINT)


def test_what_is_newer_here_than_the_backup_stays(first: Machine, remote: Path):
    """Killed after a save and before its push, and then `make resume` on the same machine."""
    leave_state(first, remote)
    first.save("newer")
    assert "they stay" in first(*RESUME)
    first("dvc", "pull", "--allow-missing")
    assert checkpoint(first) == "newer"
    assert "Running stage 'train'" in first("dvc", "repro", "--dry", "--allow-missing", "train")


@pytest.mark.slow
@pytest.mark.parametrize("git_remote", [None, pytest.param("origin", marks=pytest.mark.drill)])
def test_a_lost_machine_costs_at_most_a_save(
    first: Machine, second: Machine, remote: Path, tmp_path: Path, git_remote: str | None
):
    """Whole processes: killed in mid-training, deleted, cloned, resumed; the same bytes."""
    first.train_longer()
    whole = Machine(Path(shutil.copytree(first.folder, tmp_path / "whole", symlinks=True)))
    whole("dvc", "repro")
    first.use(remote)
    first.set("backup", git_remote=git_remote)
    first.kill_after(2)
    shutil.rmtree(first.folder)
    second.use(remote)
    second(*RESUME)
    second("dvc", "pull", "--allow-missing")
    output = second("dvc", "repro", "--allow-missing")
    assert "resuming from checkpoints/" in output
    assert hashes(second.folder) == hashes(whole.folder)
    assert "Running stage" not in second("dvc", "repro", "--allow-missing", "--dry")
    second.set("backup", git_remote=None)
    second("dvc", "push", "--quiet", "train")


@pytest.mark.slow
def test_a_machine_lost_before_the_first_save_costs_no_preprocessing(
    first: Machine, second: Machine, remote: Path
):
    """That may have taken hours, and elsewhere there may be no scans."""
    git(first.folder, "reset", "--quiet", "--hard", "HEAD~")  # dvc.lock knows no preprocessing
    git(first.folder, "push", "--quiet", "--force", "origin", "main")
    git(second.folder, "pull", "--quiet", "--rebase")
    git(second.folder, "reset", "--quiet", "--hard", "origin/main")
    first.set("train", epochs=60, early_stopping_patience=60, save_every_n_epochs=50)
    first.use(remote)
    process = first.train()
    while not any(backup["epochs"] == 0 for backup in first.ledger()["backups"]):
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
def test_somebody_elses_end_of_the_same_training_is_none_of_this_machines(
    first: Machine, second: Machine, remote: Path, tmp_path: Path
):
    """The published lock names results that nobody pushed: they are made, not taken for had."""
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
    assert "going on with" in second(*RESUME)
    second("dvc", "pull", "--allow-missing")
    assert "resuming from checkpoints/" in second("dvc", "repro", "--allow-missing")
    assert hashes(second.folder) == hashes(first.folder)
    assert "that run is finished" in second(*RESUME)


@pytest.mark.slow
@pytest.mark.drill
def test_make_resume_goes_on_or_starts(first: Machine, second: Machine, remote: Path):
    """Its environment being made already. A stop is told by 75."""
    for machine in (first, second):
        for name in ("Makefile", "requirements.txt", "pyproject.toml"):
            shutil.copy(ROOT / name, machine.folder)
        (machine.folder / ".venv").mkdir()
        (machine.folder / ".venv/installed").touch()
        machine.use(remote)
    first.train_longer()
    first.set("machine", time_budget="10s")  # a busy machine takes some before the first step
    stopped = first("make", "resume", ok=False)
    assert "nothing to resume" in stopped
    assert "stopped, since its time budget is used up" in stopped
    assert "Error 75" in stopped
    first.set("machine", time_budget=None)
    started = first("make", "repro")
    assert "resuming from checkpoints/" in started
    assert "The report is metrics/report.html" in started
    shutil.rmtree(first.folder)
    resumed = second("make", "resume")
    assert "is of a finished training" in resumed
    assert "The report is metrics/report.html" in resumed


@pytest.mark.slow
@pytest.mark.drill
def test_the_same_machine_goes_on_after_a_kill(first: Machine, remote: Path):
    """`make resume` there neither loses what is newer than the backup nor stumbles over it."""
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
