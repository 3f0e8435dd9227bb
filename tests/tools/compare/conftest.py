import shutil
from pathlib import Path

import pytest

from stand_in_project import Project, create


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that no test changes."""
    return create(tmp_path_factory.mktemp("a user's") / "Projekt mit Größe")


@pytest.fixture
def project(original: Project, tmp_path: Path) -> Project:
    """A copy to change."""
    shutil.copytree(original.folder, tmp_path / "copy", symlinks=True)
    return Project(tmp_path / "copy")
