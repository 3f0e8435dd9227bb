"""A published project, and machines with clones of it."""

import shutil
from pathlib import Path

import pytest

from machines import Machine, git
from test_pipeline import make_project


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a bare repository and a project whose preprocess stage is done."""
    folder = tmp_path_factory.mktemp("a user's") / "Größe"
    project = Machine(make_project(folder / "first"))
    project.set("train", epochs=6, early_stopping_patience=30)
    project("dvc", "repro", "--quiet", "preprocess")
    git(project.folder, "add", "--all")
    git(project.folder, "commit", "--quiet", "--message", "Preprocessed")
    git(folder, "init", "--quiet", "--bare", "--initial-branch", "main", "origin.git")
    git(project.folder, "remote", "add", "origin", str(folder / "origin.git"))
    git(project.folder, "push", "--quiet", "--set-upstream", "origin", "main")
    return folder


@pytest.fixture
def origin(published: Path, tmp_path: Path) -> Path:
    """A copy of the published repository."""
    return Path(shutil.copytree(published / "origin.git", tmp_path / "origin.git"))


@pytest.fixture
def first(published: Path, origin: Path, tmp_path: Path) -> Machine:
    """The machine that trains first, and may be lost."""
    folder = tmp_path / "first machine"
    shutil.copytree(published / "first", folder, symlinks=True)
    git(folder, "remote", "set-url", "origin", str(origin))
    return Machine(folder)


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
