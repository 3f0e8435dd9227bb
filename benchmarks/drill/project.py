"""Projects of the drills: this pipeline on a smaller sample, in a separate folder."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
OUTPUTS = ("checkpoints", "model_weights", "metrics")


def environment(**more: str) -> dict[str, str]:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path} | more


@dataclass(frozen=True)
class Project:
    """A Git and DVC repository with this project's pipeline."""

    root: Path

    def run(self, *command: str, ok: bool = True, **more: str) -> str:
        """Run a command and return its output."""
        done = subprocess.run(
            command, cwd=self.root, env=environment(**more), capture_output=True, text=True
        )
        output = done.stdout + done.stderr
        if (done.returncode == 0) != ok:
            raise RuntimeError(f"{' '.join(command)} exited with {done.returncode}:\n{output}")
        return output

    def start(self, *command: str, log: Path, **more: str) -> subprocess.Popen:
        """Start a command in its own process group, which `kill` kills as a whole."""
        with log.open("a") as file:
            return subprocess.Popen(
                command, cwd=self.root, env=environment(**more), stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip

    def set(self, **sections: dict[str, object]) -> None:
        """Change parameters."""
        path = self.root / "params.yaml"
        content = yaml.safe_load(path.read_text())
        for name, changes in sections.items():
            content[name] |= changes
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def hashes(self, folders: tuple[str, ...] = OUTPUTS) -> dict[str, str]:
        return {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in folders
            for path in sorted((self.root / folder).rglob("*"))
            if path.is_file()
        }

    def copy(self, root: Path) -> "Project":
        shutil.copytree(self.root, root, symlinks=True)
        return Project(root)


def kill(process: subprocess.Popen) -> None:
    """SIGKILL the process group of a process from `Project.start`."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def make_project(root: Path, patients: int, train: dict[str, object]) -> Project:
    """Create a project with the default model and augmentation, but fewer scans and epochs."""
    root.mkdir(parents=True)
    project = Project(root)
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, root)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", root / "src", ignore=ignored)
    shutil.copytree(ROOT / "recipes", root / "recipes")
    project.set(
        train={"val_fraction": 0.3} | train,
        evaluate={"n_bootstrap": 50},
        machine={"accelerator": "cpu", "workers": 2},
    )
    project.run("git", "init", "--quiet", "--initial-branch", "main")
    project.run("git", "config", "user.name", "A User")
    project.run("git", "config", "user.email", "user@example.org")
    project.run("dvc", "init", "--quiet")
    project.run("dvc", "config", "core.analytics", "false")
    project.run("python", "-m", "multi_abnormality", "sample", "--patients", str(patients))
    project.run("dvc", "add", "--quiet", "data")
    project.run("dvc", "repro", "preprocess")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "A project")
    return project
