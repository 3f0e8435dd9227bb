"""Git commands that fail, hang or are missing."""

from pathlib import Path

import pytest

from machines import git
from multi_abnormality.backup.git import Git, GitError, branch_of, repository_of
from multi_abnormality.backup.resume_commit import ResumeMetadata


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "First")
    return tmp_path


def test_error_contains_output_of_git(repository: Path):
    with pytest.raises(GitError, match=r"^git switch: fatal: invalid reference: nowhere$"):
        Git(repository)("switch", "nowhere")
    assert Git(repository).find("rev-parse", "--verify", "--quiet", "nowhere") is None


def test_hanging_git_times_out(repository: Path):
    with pytest.raises(GitError, match="no answer within 0 s"):
        Git(repository, timeout=0.2)("-c", "alias.hang=!exec sleep 3", "hang")


def test_missing_git_is_an_error(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(repository))
    with pytest.raises(GitError, match=r"git cannot be run: .*No such file"):
        Git(repository)("status")
    assert repository_of(repository) is None


def test_environment_of_a_hook_is_ignored(
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


def test_other_commits_are_not_states(repository: Path):
    with pytest.raises(ValueError, match="is not a resume commit"):
        ResumeMetadata.read(Git(repository), "HEAD")


def test_ssh_never_prompts_unless_configured(repository: Path):
    shown = "-c", "alias.ssh=!printenv GIT_SSH_COMMAND", "ssh"
    assert Git(repository).non_interactive()(*shown) == "ssh -o BatchMode=yes"
    git(repository, "config", "core.sshCommand", "ssh -i key")
    assert Git(repository).non_interactive().find(*shown) is None
