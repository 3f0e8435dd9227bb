"""A Git and DVC repository whose remote is on the stand-in."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from drive_stand_in.accounts import write_remote
from drive_stand_in.process import DriveProcess
from drive_stand_in.server import DriveStandIn

BIN = Path(sys.executable).parent
FILES = 9


class Project:
    """A Git and DVC repository with a remote on Drive."""

    def __init__(self, folder: Path, drive: DriveStandIn | DriveProcess) -> None:
        self.folder = folder
        self.home = folder.parent / "home"
        self.home.mkdir(exist_ok=True)
        self.extra_environment: dict[str, str] = {}
        self._drive = drive

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.home),
            "DVC_SITE_CACHE_DIR": str(self.home / "dvc"),
            "GDRIVE_NON_INTERACTIVE": "1",  # fail instead of waiting for a login in a browser
            **self._drive.environment(),
            **self.extra_environment,
        }

    def run(self, *command: str, ok: bool = True) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        output = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, output
        return output

    def log_in(self, options: dict[str, str]) -> None:
        """Write the configuration of docs/how-to/google-drive.md, faster than its commands."""
        write_remote(self.folder, "gdrive", options)

    def clone(self) -> "Project":
        """Return a clone with the same login and an empty cache."""
        copy = Project(self.folder.parent / "Klon", self._drive)
        self.run("git", "clone", "--quiet", str(self.folder), str(copy.folder))
        shutil.copy(self.folder / ".dvc/config.local", copy.folder / ".dvc/config.local")
        return copy

    def hashes(self) -> dict[str, str]:
        return {
            path.name: hashlib.md5(path.read_bytes()).hexdigest()
            for path in (self.folder / "data").iterdir()
        }


def make_project(folder: Path, drive: DriveStandIn | DriveProcess, files: int = FILES) -> Project:
    (folder / "data").mkdir(parents=True)
    project = Project(folder, drive)
    for number in range(files):
        (folder / "data" / f"Aufnahme {number} für später").write_text(f"{number}\n" * 10_000)
    (folder / "data" / "empty").touch()
    project.run("git", "init", "--quiet", "--initial-branch", "main")
    project.run("git", "config", "user.name", "A User")
    project.run("git", "config", "user.email", "user@example.org")
    project.run("dvc", "init", "--quiet")
    project.run("dvc", "config", "core.analytics", "false")
    project.run("dvc", "add", "--quiet", "data")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "Data")
    return project
