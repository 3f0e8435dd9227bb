"""Machines that train a project and may be lost."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import yaml

from drive_stand_in import write_remote
from multi_abnormality.backup.backup_manager import BackupManager
from multi_abnormality.config.schema import BackupConfig as Settings
from test_pipeline import BIN, run

FINGERPRINT = "0123456789abcdef"
LONG = 900.0  # s; uploads run at low priority, and a busy machine may have no time for them


def git(folder: Path, *command: str, ok: bool = True) -> str:
    user = ("-c", "user.name=A User", "-c", "user.email=user@example.org")
    return run(folder, "git", *user, *command, ok=ok).strip()


class Machine:
    """A working copy on a machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *command: str, ok: bool = True) -> str:
        return run(self.folder, *command, ok=ok)

    def set(self, section: str, **values: object) -> None:
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        params[section] |= values
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def train_longer(self) -> None:
        """Configure a run that is long enough to be killed, with many saves."""
        self.set("train", epochs=60, early_stopping_patience=60, save_every_n_minutes=0.01)

    def replace(self, name: str, old: object, new: object) -> None:
        """Replace a text in a file."""
        path = self.folder / name
        text = path.read_text()
        assert str(old) in text
        path.write_text(text.replace(str(old), str(new)))

    def use(self, remote: Path) -> None:
        remote.parent.mkdir(parents=True, exist_ok=True)
        write_remote(self.folder, "backup", {"url": str(remote)})

    def log_in(self, options: dict[str, str]) -> None:
        """Use a remote with these options as the default remote."""
        write_remote(self.folder, "backup", options)

    def save(self, content: str) -> None:
        """Write a file that stands for a checkpoint."""
        folder = self.folder / "checkpoints"
        folder.mkdir(exist_ok=True)
        (folder / "last.ckpt").write_text(content)

    def backup(self, identity: dict | None = None, **settings: object) -> BackupManager:
        values = {"remote": None, "git_remote": None, "keep_last": 2, "grace": 30.0} | settings
        return BackupManager(Settings(**values), self.folder, FINGERPRINT, identity or {})

    def upload_log(self) -> dict:
        path = self.folder / ".dvc/tmp/backup.json"
        return json.loads(path.read_text()) if path.exists() else {"backups": []}

    def epochs_backed_up(self) -> int:
        return max((item["epochs"] or 0 for item in self.upload_log()["backups"]), default=0)

    def train(self, *command: str) -> subprocess.Popen:
        environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.Popen(
            command or ("dvc", "repro"), cwd=self.folder, env=environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def kill_after(self, epochs: int) -> None:
        """SIGKILL training after this many epochs have been backed up."""
        process = self.train()
        while self.epochs_backed_up() < epochs:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def leave_state(machine: Machine, folder: Path, content: str = "one", **settings: object) -> None:
    """Back up an unfinished run."""
    if not (machine.folder / ".dvc/config.local").exists():
        machine.use(folder)
    backup = machine.backup(**settings)
    backup.start()
    machine.save(content)
    (machine.folder / "metrics/history.csv").write_text(f"epoch\n{content}\n")
    backup.saved(3)
    backup.close(LONG)


def wait_for_uploads(backup: BackupManager, seconds: float = LONG) -> None:
    """Call `poll`, as training does, until everything is uploaded."""
    end = time.monotonic() + seconds
    while backup._is_pending or backup._push:
        assert time.monotonic() < end
        backup.poll()
        time.sleep(0.02)
