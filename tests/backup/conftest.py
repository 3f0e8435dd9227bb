"""A published project, and machines with clones of it."""

import hashlib
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import SharedFolders
from forked_push import ForkedPush
from machines import Machine, git, leave_state
from multi_abnormality.backup import push


@pytest.fixture(autouse=True)
def forked_pushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the processes that upload, instead of starting Python and importing DVC for each."""
    forking = SimpleNamespace(Popen=ForkedPush, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(push, "subprocess", forking)


@pytest.fixture(scope="session")
def published(shared_folders: SharedFolders, new_project: Path) -> Path:
    """Folder with a bare repository and a project whose preprocess stage is done. Read-only."""

    def create(folder: Path) -> None:
        folder = folder / "Größe"
        project = Machine(shutil.copytree(new_project, folder / "first", symlinks=True))
        project.set("train", epochs=6, early_stopping_patience=30)
        project("dvc", "repro", "--quiet", "preprocess")
        git(project.folder, "add", "--all")
        git(project.folder, "commit", "--quiet", "--message", "Preprocessed")
        git(folder, "init", "--quiet", "--bare", "--initial-branch", "main", "origin.git")
        git(project.folder, "remote", "add", "origin", str(folder / "origin.git"))
        git(project.folder, "push", "--quiet", "--set-upstream", "origin", "main")

    return shared_folders("a user's", create) / "Größe"


@pytest.fixture(scope="session")
def stopped(shared_folders: SharedFolders, published: Path) -> Path:
    """Folder with a machine whose unfinished run is backed up, and its remote. Read-only."""

    def create(folder: Path) -> None:
        shutil.copytree(published / "first", folder / "machine", symlinks=True)
        (folder / "remote").mkdir()
        leave_state(Machine(folder / "machine"), folder / "remote")

    return shared_folders("stopped", create)


@pytest.fixture
def origin(published: Path, tmp_path: Path) -> Path:
    """A copy of the published repository."""
    return Path(shutil.copytree(published / "origin.git", tmp_path / "origin.git"))


@pytest.fixture
def first(published: Path, origin: Path, tmp_path: Path) -> Machine:
    """The machine that trains first, and may be lost."""
    folder = shutil.copytree(published / "first", tmp_path / "first machine", symlinks=True)
    machine = Machine(folder)
    machine.replace(".git/config", published / "origin.git", origin)
    return machine


@pytest.fixture
def backed_up(
    published: Path, stopped: Path, origin: Path, remote: Path, tmp_path: Path
) -> Machine:
    """The first machine, after a backup of an unfinished run to the remote."""
    shutil.copytree(stopped / "remote", remote, dirs_exist_ok=True)
    folder = shutil.copytree(stopped / "machine", tmp_path / "first machine", symlinks=True)
    machine = Machine(folder)
    machine.replace(".git/config", published / "origin.git", origin)
    machine.replace(".dvc/config.local", stopped / "remote", remote)
    old, new = (
        hashlib.sha256(bytes(folder)).hexdigest()[:16] for folder in (stopped / "remote", remote)
    )
    machine.replace(".dvc/tmp/backup.json", old, new)  # the remote's id
    return machine


@pytest.fixture
def second(origin: Path, tmp_path: Path) -> Machine:
    """A machine with a fresh clone, without data and cache."""
    git(tmp_path, "clone", "--quiet", str(origin), "second machine")
    return Machine(tmp_path / "second machine")


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    folder = tmp_path / "another disk" / "backup"
    folder.mkdir(parents=True)
    return folder
