"""The guides' commands, run one after the other in a project; a few are tested elsewhere."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from documents import ROOT, Command, commands, documents, mentions, simple_commands
from test_pipeline import BIN, make_project, run, run_first

WIDTH = 100  # columns of the terminal that the guides were written at
EXPERIMENTS = ROOT / "docs/how-to/experiments.md"
OWN_DATA = (
    ROOT / "docs/how-to/own-data.md"
)  # tests/test_own_data_guide.py types it, where such scans are
CROSS_VALIDATION = (
    ROOT / "docs/how-to/cross-validation.md"
)  # tests/test_cross_validation_guide.py types it
ENSEMBLES = ROOT / "docs/how-to/ensembles.md"  # tests/test_ensemble_guide.py types it

# Pages whose commands take minutes: `make drill` runs them.
MINUTES_LONG = ("compare", "experiments", "migrate-from-run-task2", "models", "quick-start")

# Commands that something else runs: where, and the words there that do it.
ELSEWHERE = {
    r"^make test\b": (".ci/run", "make test"),
    r"^make( repro)?$": (".ci/run", "make repro"),
    r"^make check\b": (".ci/run", "make check"),
    r"^make \.venv/installed": ("Makefile", "test: .venv/installed"),
    r"^make docs\b": ("tests/test_site.py", '"mkdocs", "build"'),
    r"^make drill\b|-m drill\b": ("Makefile", "-m drill"),
    r"^make exps\b": ("Makefile", "multi-abnormality experiments"),
    r"^make resume\b": ("tests/backup/test_restore.py", '"make", "resume"'),
    r"multi-abnormality resume": ("tests/backup/test_restore.py", "*RESUME"),
    r"multi-abnormality download": (
        "tests/tools/download/test_documented_downloads.py",
        "multi-abnormality download",
    ),
    r"multi-abnormality evaluate": (
        "tests/tools/external_test/test_external_test.py",
        "commands(GUIDE)",
    ),
    r"multi-abnormality index": ("tests/tools/index/test_pacs_guide.py", "commands(GUIDE)"),
    r"multi-abnormality recipe": ("tests/tools/test_recipe.py", '"multi_abnormality", "recipe"'),
    r"multi-abnormality offline-plots": ("tests/test_pages.py", '"offline-plots"'),
    r"ensembles/winner/dvc.yaml|--all-pipelines": (
        "tests/test_ensemble_guide.py",
        "winner/dvc.yaml",
    ),
    r"^dask (scheduler|worker)": ("tests/dask_cluster.py", "distributed.cli.dask_"),
    r"torchrun(?!.*nnodes)": ("tests/runtime/test_multi_rank_training.py", "torch.distributed.run"),
    r"gdrive|GDRIVE|/content/drive|--local backup verify|^dvc push$|ADDRESS restored": (
        "tests/test_google_drive_guide.py",
        "commands(GUIDE)",
    ),
    r"^pip install \.": ("tests/test_wheel.py", '"install"'),
    r"predict STUDY_FOLDER": ("tests/inference/test_predict.py", '"--series"'),
    r"exp run --run-all": ("tests/test_pipeline.py", '"--run-all"'),
    r"evaluate\.baseline=": ("tests/test_pipeline.py", "baseline"),
    r"plots diff main faster": ("docs/how-to/experiments.md", "dvc plots diff main faster"),
}
# Commands that nothing runs, and what that would take.
NEVER = {
    r"git clone ADDRESS(?! restored)": "the repository's address; tests/backup clones it from a "
    "folder",
    r"^bash \.ci/run": "it runs the tests",
    r"^make coverage": "the quick tests a second time",
    r"^make pins": "the newest packages, which change what is tested",
    r"^make (bench|study)|benchmarks[/ ]|-m bench\b": "an idle machine for long; "
    "tests/test_benchmarks.py runs all in small sizes",
    r"^git diff HEAD 0123456789ab": "a resume commit; its message names the reader's own",
    r"hf auth login": "an account of the hub, and a person",
    r"timm\.create_model|^hf download": "weights from the hub",
    r"^tensorboard": "a person's browser; tests/runtime/test_resume_decision.py "
    "reads what it would show",
    r"^git fetch$|^dvc exp (push|pull) origin": "a Git remote that several people push to",
    r"^srun": "SLURM; tests/dask_cluster.py starts such workers without",
    r"torchrun.*nnodes": "a second machine; tests/runtime starts several processes",
}
# Commands in running text, typed one after the other; some are there for the next.
IN_TEXT = (
    "dvc exp run -S train.learning_rate=1e-3",
    "dvc exp show --csv",
    "dvc exp show --sha",
    "dvc metrics diff",
    "dvc metrics show",
    "python -m json.tool metrics/evaluate.json",
    "dvc plots show",
    "git status",
    "git checkout dvc.lock",
    "git restore . && dvc checkout --force",
    "dvc exp show --num 2",
    "git checkout REVISION && dvc checkout",
    "git switch --detach REV",
    "git switch main",
    "git log",
    "git tag",
    "dvc repro train",
    "dvc repro evaluate",
    "dvc commit",
    "multi-abnormality predict SCAN…",
    "dvc remote add --default backup FOLDER",
    "dvc remote add --default NAME URL",
    "git commit --quiet --all --message 'A remote'",
    "dvc push --all-commits",
    "dvc exp run --queue --name rate-1 -S train.weight_decay=0.1",
    "dvc queue start",
    "dvc queue logs rate-1 --follow",
    "dvc queue stop",
    "dvc queue remove --failed",
    "git init --quiet --bare ../origin.git && git remote add origin ../origin.git",
    "git push --quiet origin main",
    "dvc exp push origin rate-1",
    "dvc exp remove --git-remote origin rate-1",
    "dvc config cache.type reflink,hardlink,copy",
    "git checkout .dvc/config",
)
# Replacements for a reader's own paths and names.
STAND_INS = {
    "SCAN…": "data/dataset/valid_fixed/valid_1/valid_1_a/valid_1_a_1.nii.gz",
    "SCAN": "data/dataset/valid_fixed/valid_1/valid_1_a/valid_1_a_1.nii.gz",
    "/another/disk/backup": "../backup",
    "FOLDER": "../backup",
    "NAME URL": "other ../other",
    "REVISION": "main",
    "REV": "main",
    ".venv/bin/activate": str(BIN / "activate"),
}


class Shell:
    """Types commands in a folder, and goes where `cd` leads."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self._environment = environment or {}
        self._place = folder.parent / "place"
        self._output = folder.parent / "output"

    def __call__(self, text: str) -> str:
        environment = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": str(WIDTH),
            "PLACE": str(self._place),
            **self._environment,
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
        # A task that a worker has just taken is in no state.
        busy = r"Queued|Running|[1-9]\d* (active|idle)"
        while re.search(busy, run(self.folder, "dvc", "queue", "status")):
            assert time.monotonic() < deadline, "the queue does not end"
            time.sleep(2)


def to_run(document: Path) -> list[Command]:
    """Of the guide to experiments all, of others what is not run elsewhere."""
    if document == EXPERIMENTS:
        return commands(document)
    if document in (OWN_DATA, CROSS_VALIDATION, ENSEMBLES):
        return []
    return [command for command in commands(document) if not is_run_otherwise(command.text)]


def is_run_otherwise(text: str) -> bool:
    return any(re.search(pattern, text, re.DOTALL) for pattern in (*ELSEWHERE, *NEVER))


def typed(command: Command) -> str:
    text = command.text
    for word, stand_in in STAND_INS.items():
        text = re.sub(rf"(?<![\w/]){re.escape(word)}(?![\w/])", stand_in, text)
    return text


def words_typed() -> list[list[str]]:
    """Each simple command that some test types."""
    texts = [command.text for document in documents() for command in to_run(document)]
    for document in (OWN_DATA, CROSS_VALIDATION, ENSEMBLES):
        texts += [command.text for command in commands(document)]
    return [words for text in [*texts, *IN_TEXT] for words in simple_commands(text)]


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
@pytest.mark.parametrize(
    "document",
    [
        pytest.param(
            path, id=path.stem, marks=[pytest.mark.drill] if path.stem in MINUTES_LONG else []
        )
        for path in filter(to_run, documents())
    ],
)
def test_commands_of_each_page_run(document: Path, shell: Shell):
    for command in to_run(document):
        printed = shell(typed(command))
        if document == EXPERIMENTS:
            assert unprinted(command, printed) == set(), f"{command.place}: {printed}"
        if command.text.endswith("multi-abnormality experiments"):
            assert [line for line in printed.splitlines() if len(line) > WIDTH] == []
        if "queue start" in command.text:
            shell.wait_for_queue()


@pytest.mark.slow
@pytest.mark.drill
def test_commands_in_running_text_run(shell: Shell):
    for text in IN_TEXT:
        shell(typed(Command("", text)))
        if "queue start" in text:
            shell.wait_for_queue()


def test_every_command_is_run_or_has_a_reason_why_not():
    """In running text also the name alone of one that is typed with more."""
    typed_words = words_typed()
    lost = [
        f"{mention.place}: {mention.text}"
        for document in documents()
        for mention in mentions(document)
        if not is_run_otherwise(mention.text)
        for words in simple_commands(mention.text)
        if words not in [other[: len(words)] for other in typed_words]
    ]
    assert lost == []


@pytest.mark.parametrize("pattern", [*ELSEWHERE, *NEVER])
def test_commands_that_run_elsewhere_exist_there(pattern: str):
    texts = [command.text for document in documents() for command in commands(document)]
    texts += [mention.text for document in documents() for mention in mentions(document)]
    assert [text for text in texts if re.search(pattern, text, re.DOTALL)], "no guide has such"
    place, words = ELSEWHERE.get(pattern, ("README.md", ""))
    assert words in (ROOT / place).read_text(encoding="utf-8")


def test_guides_have_commands_that_run():
    found = {document.name for document in documents() if to_run(document)}
    assert {"README.md", "experiments.md", "models.md"} <= found
