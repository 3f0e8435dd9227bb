"""The train stage as a subprocess."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

from multi_abnormality.config.schema import Params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset

TRAIN = [sys.executable, "-m", "multi_abnormality.stages.train"]


class Project:
    """Project directory in which the train stage runs."""

    def __init__(self, root: Path, params: Params, processed: ProcessedDataset) -> None:
        self.root = root
        shutil.copytree(processed.root, root / "processed")
        self.set(params.model_dump(mode="json"))

    def set(self, content: dict) -> None:
        (self.root / "params.yaml").write_text(yaml.safe_dump(content))

    def change(self, section: str, **changes: object) -> None:
        content = yaml.safe_load((self.root / "params.yaml").read_text())
        content[section] |= changes
        self.set(content)

    def start(
        self, command: list[str] = TRAIN, stderr: int = subprocess.PIPE, **environment: str
    ) -> subprocess.Popen:
        return subprocess.Popen(
            command, cwd=self.root, stderr=stderr, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, start_new_session=True,
        )  # fmt: skip

    def run(self, command: list[str] = TRAIN, **environment: str) -> tuple[int, str]:
        process = self.start(command, **environment)
        _, output = process.communicate()
        return process.returncode, output

    def wait_for_save(self, process: subprocess.Popen) -> None:
        while not (self.root / "checkpoints/previous.ckpt").exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)

    def content(self) -> dict[str, bytes]:
        files = [*self.root.glob("checkpoints/*"), *self.root.glob("metrics/*")]
        return {path.name: path.read_bytes() for path in files}
