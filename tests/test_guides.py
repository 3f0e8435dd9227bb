"""The guides' commands, typed one after the other in a project; a few run elsewhere."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from documents import ROOT, Command, commands, documents
from test_pipeline import BIN, make_project, run, run_first

WIDTH = 100  # columns of the terminal that the guides were written at
EXPERIMENTS = ROOT / "docs/experiments.md"
OWN_DATA = ROOT / "docs/own-data.md"  # tests/test_own_data.py types it, where such scans are

# Commands that are run by something else, or need what a test does not have.
ELSEWHERE = {
    r"git clone <": "each test starts in a project of its own",
    r"\bmake [\w./]+|bash \.ci/run|python -m drill|source \.venv": ".ci/run and make drill",
    r"multi_abnormality\.download|hf auth login": "tests/download, by the hub's stand-in",
    r"multi_abnormality\.resume": "tests/backup/test_restore.py, on machines that were lost",
    r"dask (scheduler|worker)|srun|torchrun": "tests/data/test_work.py, tests/training",
    r"gdrive|GDRIVE|/content/drive|^dvc push$": "tests/test_google_drive.py, by Drive's stand-in",
    r"recipes/\w+\.yaml": "tests/test_recipes.py: weights would be fetched, and a GPU wanted",
    r"timm\.create_model": "fetches weights",
    r"benchmarks/": "make bench",
    r"plots diff main faster": "docs/experiments.md, which makes it",
}
# What stands for a reader's own.
STAND_INS = {
    "SCAN": "data/dataset/valid_fixed/valid_1/valid_1_a/valid_1_a_1.nii.gz",
    "/another/disk/backup": "../backup",
}


class Shell:
    """Types commands in a folder, and goes where `cd` leads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._place = folder.parent / "place"
        self._output = folder.parent / "output"

    def __call__(self, text: str) -> str:
        environment = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": str(WIDTH),
            "PLACE": str(self._place),
        }
        script = f'{text}\nended=$?; pwd > "$PLACE"; exit $ended'
        with self._output.open("w+") as output:  # a pipe would stay open as long as DVC's workers
            done = subprocess.run(
                ["bash", "-c", script],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        printed = self._output.read_text()
        assert done.returncode == 0, f"{text}\n{printed}"
        self.folder = Path(self._place.read_text().strip())
        return printed

    def wait_for_queue(self) -> None:
        """Until DVC's workers, which are processes of their own, have nothing left to do."""
        deadline = time.monotonic() + 1200
        while re.search("Queued|Running", run(self.folder, "dvc", "queue", "status")):
            assert time.monotonic() < deadline, "the queue does not end"
            time.sleep(2)


def to_run(document: Path) -> list[Command]:
    """Of the guide to experiments all, of others what is not run elsewhere."""
    if document == EXPERIMENTS:
        return commands(document)
    if document == OWN_DATA:
        return []
    return [
        command
        for command in commands(document)
        if not any(re.search(pattern, command.text) for pattern in ELSEWHERE)
    ]


def typed(command: Command) -> str:
    text = command.text
    for word, stand_in in STAND_INS.items():
        text = re.sub(rf"(?<![\w/]){re.escape(word)}(?![\w/])", stand_in, text)
    return text


def unprinted(command: Command, printed: str) -> set[str]:
    """Words that a guide shows and the command did not print: figures may differ, words not."""
    return {
        word
        for line in command.output
        for word in re.findall(r"(?<!\w)[A-Za-z][A-Za-z_-]{2,}(?!\w)", line)
        if word not in printed
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which `dvc repro` has run once, with two commits of that run's results."""
    folder = make_project(tmp_path_factory.mktemp("guides") / "project")
    run_first(folder)
    run(folder, "git", "tag", "first-default")
    run(folder, "git", "commit", "--quiet", "--allow-empty", "--message", "The same")
    return folder


@pytest.fixture
def shell(project: Path, tmp_path: Path) -> Shell:
    """In a copy of the project, with a folder of a reader's own scans."""
    folder = tmp_path / "project"
    shutil.copytree(project, folder, symlinks=True)
    (folder / "scans").mkdir()
    shutil.copy(folder / STAND_INS["SCAN"], folder / "scans")
    return Shell(folder)


@pytest.mark.slow
@pytest.mark.parametrize("document", [*filter(to_run, documents())], ids=lambda path: path.stem)
def test_commands_run(document: Path, shell: Shell):
    for command in to_run(document):
        printed = shell(typed(command))
        if document == EXPERIMENTS:
            assert unprinted(command, printed) == set(), f"{command.place}: {printed}"
        if re.search("exp show|exps", command.text):
            assert [line for line in printed.splitlines() if len(line) > WIDTH] == []
        if "queue start" in command.text:
            shell.wait_for_queue()


def test_guides_have_commands_that_run():
    found = {document.name for document in documents() if to_run(document)}
    assert {"README.md", "experiments.md", "models.md"} <= found
