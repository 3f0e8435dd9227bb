"""The commands of docs/how-to/google-drive.md on an emulated Drive, except the browser login."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from documents import ROOT, Command, commands
from drive_stand_in import SERVICE, USER, DriveStandIn, remote_options
from drive_stand_in.accounts import CLIENT_ID, CLIENT_SECRET, FOLDER_TITLE
from drive_stand_in.contents import MY_DRIVE, SHARED_DRIVE
from drive_stand_in.project import Project, make_project
from test_guides import Shell, unprinted

GUIDE = ROOT / "docs/how-to/google-drive.md"
WAYS = ("Mounted Drive in Colab", "Own OAuth client", "Service account with a shared drive")
USE = "Use and verify the remote"
IN_TEXT = {
    WAYS[2]: "dvc remote modify --local gdrive gdrive_trash_only true",
    USE: "dvc remote default --local gdrive",
}


def section(title: str) -> list[Command]:
    lines = GUIDE.read_text(encoding="utf-8").splitlines()
    first = lines.index(f"## {title}")
    last = next(n for n, line in enumerate([*lines[first + 1 :], "## "]) if line.startswith("## "))
    return [
        command
        for command in commands(GUIDE)
        if first < int(command.place.rpartition(":")[2]) <= first + 1 + last
    ]


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[DriveStandIn]:
    """An emulated Drive with the folder that the guide creates first."""
    with DriveStandIn(tmp_path / "drive") as stand_in:
        stand_in.contents.add(FOLDER_TITLE, MY_DRIVE)
        yield stand_in


@pytest.fixture
def project(tmp_path: Path, drive: DriveStandIn) -> Project:
    """With this project's own remote."""
    project = make_project(tmp_path / "project", drive)
    shutil.copy(ROOT / ".dvc/config", project.folder / ".dvc/config")
    project.run("git", "commit", "--quiet", "--all", "--message", "A remote")
    return project


class Reader:
    """Runs the guide's commands with accounts of the emulated Drive."""

    def __init__(self, project: Project, folder_id: str) -> None:
        self._shell = Shell(project.folder, project.environment())
        self._stand_ins = {
            "/content/drive/MyDrive": "../MyDrive",
            "1234-abcd.apps.googleusercontent.com": CLIENT_ID,
            "GOCSPX-…": CLIENT_SECRET,
            "1AbC…": folder_id,
            "ADDRESS": str(project.folder),
        }

    def types(self, found: list[Command]) -> None:
        exported = ""
        for command in found:
            text = command.text
            for word, stand_in in self._stand_ins.items():
                text = text.replace(word, stand_in)
            if text.startswith("export "):  # each command has a shell of its own
                exported = f"{text}\n"
                continue
            printed = self._shell(exported + text)
            assert unprinted(command, printed) == set(), f"{command.place}: {printed}"

    def goes_to(self, folder: Path) -> None:
        self._shell.folder = folder


def test_every_command_is_in_a_section():
    found = [command for title in (*WAYS, USE) for command in section(title)]
    assert found == commands(GUIDE)
    assert all(f"`{text}`" in GUIDE.read_text(encoding="utf-8") for text in IN_TEXT.values())


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_commands_of_each_way_to_use_drive_run(
    way: str, project: Project, drive: DriveStandIn, tmp_path: Path
):
    shared = drive.contents.add(FOLDER_TITLE, SHARED_DRIVE)
    login = project.folder / ".dvc/tmp/gdrive-user.json"
    for path in (login, project.folder / "gdrive-user.json"):
        shutil.copy(remote_options(tmp_path, USER)["gdrive_user_credentials_file"], path)
    (project.home / "Downloads").mkdir()
    key = remote_options(tmp_path, SERVICE)["gdrive_service_account_json_file_path"]
    shutil.copy(key, project.home / "Downloads/project-1234.json")
    reader = Reader(project, shared.id)

    reader.types(section(way))
    if way in IN_TEXT:
        reader.types([Command(way, IN_TEXT[way])])
    assert project.run("git", "status", "--porcelain", "--untracked-files=no") == ""
    assert len(list(stored(way, project, drive))) > 9
    if way == WAYS[0]:
        return

    (project.folder / "data/one more").write_text("more")
    project.run("dvc", "add", "--quiet", "data")
    project.run("git", "commit", "--quiet", "--all", "--message", "More")
    *using, clone, pull = section(USE)
    reader.types([*using, Command(USE, IN_TEXT[USE])])
    reader.goes_to(tmp_path)
    reader.types([clone])
    restored = tmp_path / "restored"
    for name in ("config.local", "tmp/gdrive-user.json", "tmp/gdrive-key.json"):
        if (project.folder / ".dvc" / name).exists():  # the same login
            (restored / ".dvc/tmp").mkdir(exist_ok=True)
            shutil.copy(project.folder / ".dvc" / name, restored / ".dvc" / name)
    reader.types([pull])
    assert Project(restored, drive).hashes() == project.hashes()


def stored(way: str, project: Project, drive: DriveStandIn) -> list[str]:
    """Files in the backup's folder."""
    if way == WAYS[0]:
        mounted = project.folder.parent / "MyDrive" / FOLDER_TITLE
        return [str(path) for path in mounted.rglob("*") if path.is_file()]
    return [path for path in drive.contents.files() if path.startswith(f"{FOLDER_TITLE}/")]
