"""Git where it refuses, hangs or is missing."""

from pathlib import Path

import pytest

from machines import git
from multi_abnormality.backup.git import Git, GitError, repository_of
from multi_abnormality.backup.snapshot_metadata import SnapshotMetadata, branch_of


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "First")
    return tmp_path


def test_what_git_says_is_the_error(repository: Path):
    with pytest.raises(GitError, match=r"^git switch: fatal: invalid reference: nowhere$"):
        Git(repository)("switch", "nowhere")
    assert Git(repository).find("rev-parse", "--verify", "--quiet", "nowhere") is None


def test_a_git_that_does_not_answer_is_not_waited_for(repository: Path):
    with pytest.raises(GitError, match="no answer within 0 s"):
        Git(repository, patience=0.2)("-c", "alias.hang=!exec sleep 3", "hang")


def test_a_machine_without_git_is_told(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(repository))
    with pytest.raises(GitError, match=r"git cannot be run: .*No such file"):
        Git(repository)("status")
    assert repository_of(repository) is None


def test_a_hook_that_runs_it_does_not_lead_it_elsewhere(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    git(elsewhere, "init", "--quiet")
    monkeypatch.setenv("GIT_DIR", str(elsewhere / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(elsewhere))
    assert repository_of(repository).folder == repository.resolve()


def test_states_are_named_after_the_branch_or_the_commit(repository: Path):
    here = Git(repository)
    assert branch_of(here) == "main"
    git(repository, "switch", "--quiet", "--create", "resume/main/0123456789abcdef")
    assert branch_of(here) == "main"
    git(repository, "switch", "--quiet", "--detach")
    assert branch_of(here) == here("rev-parse", "HEAD")[:12]


def test_another_commit_is_no_state(repository: Path):
    with pytest.raises(ValueError, match="is no resume commit"):
        SnapshotMetadata.read(Git(repository), "HEAD")


def test_ssh_asks_nothing_unless_it_was_set_up_otherwise(repository: Path):
    shown = "-c", "alias.ssh=!printenv GIT_SSH_COMMAND", "ssh"
    assert Git(repository).unattended()(*shown) == "ssh -o BatchMode=yes"
    git(repository, "config", "core.sshCommand", "ssh -i key")
    assert Git(repository).unattended().find(*shown) is None
