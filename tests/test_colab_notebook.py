"""The Colab notebook, executed by a real kernel: another folder is the Drive, and none is Colab."""

import ast
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from machines import Machine, git
from multi_abnormality.cli import COMMANDS
from test_pipeline import BIN, ROOT, hashes, make_project, run

NOTEBOOK = ROOT / "notebooks/colab.ipynb"
DATA = "multi-abnormality sample --out data --patients 36 --size 64"
PINS = "# Nothing: the notebook is to use what is installed already.\n"


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_a_valid_notebook_without_outputs():
    notebook = read()
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        ast.parse(cell.source)
        assert cell.outputs == []
        assert cell.execution_count is None


def test_it_names_no_machine_but_colabs():
    paths = re.findall(r"[\"'`(](/[\w.]+/[\w./-]*)", NOTEBOOK.read_text())
    assert paths
    assert [path for path in paths if not path.startswith("/content/drive")] == []


def test_commands_and_files_of_its_runs_exist():
    settings: dict = {}
    exec(code_cells(read())[0].source, settings)
    assert settings["RUN"] == "sample"
    for choice in settings["RUNS"].values():
        assert re.search(r"(?m)^ +max_time: \S", (ROOT / choice["params"]).read_text())
        # The notebook does not install the project, so there is no console command.
        *module, command = choice["data"].split()[:4]
        assert module == ["python", "-m", "multi_abnormality"]
        assert command in COMMANDS
        assert (ROOT / "recipes" / f"{choice.get('recipe', 'sample')}.yaml").is_file()
    assert "multi-abnormality " not in "".join(cell.source for cell in code_cells(read()))


def test_it_sets_the_time_budget_however_none_is_written():
    (cell,) = [cell.source for cell in code_cells(read()) if "max_time" in cell.source]
    start, end = cell.index("settings, lines ="), cell.index('(PROJECT / "params.yaml").write')
    for none in ("", " null", " null   # a comment", " 5h30m"):
        settings = f"machine:\n  max_time:{none}\n  workers: 1\n"
        names = {"re": re, "TIME_BUDGET": "3h", "settings": settings}
        exec(cell[start:end], names)
        found = yaml.safe_load(names["settings"])["machine"]
        assert found == {"max_time": "3h", "workers": 1}
    names |= {"settings": "machine:\n  workers: 1\n", "CHOSEN": {"params": "mine.yaml"}}
    with pytest.raises(ValueError, match=r"mine\.yaml: needs a line max_time"):
        exec(cell[start:end], names)


class Session:
    """A machine that Colab lends.

    Args:
        work: the machine's folder, made here.
        drive: what lasts.
        repository: to clone.
    """

    def __init__(self, work: Path, drive: Path, repository: Path) -> None:
        self.project = work / "multi-abnormality-sample"
        self.kept = drive / "sample"
        environment = work / "multi-abnormality-venv"
        environment.mkdir(parents=True, exist_ok=True)
        (environment / "requirements.txt").write_text(PINS)
        self.notebook = read()
        code_cells(self.notebook)[0].source += f"""
REPOSITORY, DRIVE, WORK = {str(repository)!r}, {str(drive)!r}, {str(work)!r}
RUNS["sample"]["data"] = {DATA!r}
"""
        self.client = NotebookClient(self.notebook, timeout=None, kernel_name="python3")

    def run_all(self) -> str:
        """Execute every cell and return its output."""
        self.client.execute()
        return self.result()

    def result(self) -> str:
        return "".join(
            output.get("text", "") for cell in code_cells(self.notebook) for output in cell.outputs
        )

    def run_until(self, ready: Callable[[], bool], act: Callable[[int], None]) -> type:
        """Run all, and act on the kernel's process as soon as it is ready; how execution ends."""
        ended: list[type] = []

        def execute() -> None:
            try:
                self.client.execute()
            except (DeadKernelError, CellExecutionError) as error:
                ended.append(type(error))

        thread = threading.Thread(target=execute, daemon=True)
        thread.start()
        while not ready():
            assert thread.is_alive(), self.result()
            time.sleep(0.05)
        act(self.client.km.provisioner.pid)
        thread.join(120)
        (how,) = ended
        return how


def kill(kernel: int) -> None:
    """SIGKILL it and all that it has started, as a lost machine does."""
    process = psutil.Process(kernel)
    for each in [process, *process.children(recursive=True)]:
        each.send_signal(signal.SIGKILL)


def interrupt(kernel: int) -> None:
    """Stop its cell as Jupyter does."""
    os.killpg(os.getpgid(kernel), signal.SIGINT)


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory):
    """Programs of this environment for the kernel's shells, and nothing of Jupyter's at home."""
    folder = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(folder / name))
        yield


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare repository of a small project that trains long enough to be killed."""
    folder = tmp_path_factory.mktemp("a user's") / "Größe"
    project = Machine(make_project(folder / "first"))
    project.train_longer()
    (project.folder / "requirements.txt").write_text(PINS)
    git(project.folder, "add", "--all")
    git(project.folder, "commit", "--quiet", "--message", "For Colab")
    git(folder, "clone", "--quiet", "--bare", "first", "origin.git")
    shutil.rmtree(project.folder)
    return folder / "origin.git"


@pytest.fixture(scope="module")
def whole(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A session in which the notebook has run, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    session = Session(folder / "machine", folder / "My Drive", repository)
    session.run_all()
    return session


def test_its_first_cells_clone_and_a_failing_command_ends_them(tmp_path: Path):
    """Without a kernel, and with the smallest of repositories."""
    git(tmp_path, "init", "--quiet", "--initial-branch", "main", "origin")
    git(tmp_path / "origin", "commit", "--quiet", "--allow-empty", "--message", "Empty")
    session = Session(tmp_path / "a machine", tmp_path / "Drive", tmp_path / "origin")
    settings, clone, *_ = code_cells(session.notebook)
    names: dict = {}
    exec(settings.source, names)
    exec(clone.source, names)
    assert (session.project / ".git").is_dir()
    exec(clone.source, names)  # again, as a user does
    assert names["sh"]("echo one; echo two >&2") == "one\ntwo\n"
    with pytest.raises(RuntimeError, match="exit code 3"):
        names["sh"]("exit 3")
    exec("REPOSITORY = ''", names)
    with pytest.raises(ValueError, match="fill in REPOSITORY"):
        exec(clone.source, names)


@pytest.mark.slow
def test_from_start_to_end(whole: Session):
    printed = whole.result()
    assert "nothing to resume" in printed
    assert re.search(r"metrics/scores.json +0\.\d+", printed)
    for name in ("metrics/report.html", "model_weights/model_test_efficientnet.onnx"):
        assert (whole.kept / "results" / name).read_bytes() == (whole.project / name).read_bytes()
    assert "max_time: 3h30m" in (whole.project / "params.yaml").read_text()
    changed = git(whole.project, "diff", "--name-only").splitlines()
    assert [name for name in changed if name not in ("dvc.lock", "params.yaml")] == []


@pytest.mark.slow
def test_the_drive_has_the_whole_result(whole: Session, repository: Path, tmp_path: Path):
    git(tmp_path, "clone", "--quiet", str(repository), "clone")
    clone = Machine(tmp_path / "clone")
    for name in ("params.yaml", "dvc.lock"):
        shutil.copy(whole.kept / "results" / name, clone.folder)
    clone.use(whole.kept / "dvc")
    clone("dvc", "pull", "--allow-missing")
    there, wanted = hashes(clone.folder), hashes(whole.project)
    assert {name: wanted.get(name) for name in there} == there
    assert set(wanted) - set(there) == {
        str(path.relative_to(whole.project)) for path in (whole.project / "metrics").glob("*")
        if path.is_file() and path.suffix in (".json", ".csv")
        and path.stem not in ("predictions", "submission")
    }  # fmt: skip


@pytest.mark.slow
def test_run_again_in_the_same_session_it_does_nothing(whole: Session, repository: Path):
    before = hashes(whole.project)
    printed = Session(whole.project.parent, whole.kept.parent, repository).run_all()
    assert "Running stage" not in printed
    assert hashes(whole.project) == before


def publish_results(whole: Session, repository: Path, folder: Path) -> Path:
    """A repository with what Git keeps of a session's results, and nothing of what DVC keeps."""
    git(folder, "clone", "--quiet", str(repository), "results")
    for name in ("dvc.lock", "metrics"):
        run(folder, "cp", "-r", str(whole.project / name), str(folder / "results"))
    git(folder / "results", "add", "--all")
    git(folder / "results", "commit", "--quiet", "--message", "Results")
    assert "dvc.lock" in git(folder / "results", "ls-files")
    git(folder, "clone", "--quiet", "--bare", "results", "results.git")
    return folder / "results.git"


@pytest.mark.slow
@pytest.mark.drill
def test_it_resumes_after_a_lost_session(whole: Session, repository: Path, tmp_path: Path):
    """Though the repository holds the lock of the same training, finished by someone else."""
    repository = publish_results(whole, repository, tmp_path)
    drive = tmp_path / "Meine Ablage, für später"
    lost = Session(tmp_path / "first machine", drive, repository)
    machine = Machine(lost.project)
    how = lost.run_until(lambda: machine.epochs_backed_up() >= 2, kill)
    assert how is DeadKernelError
    shutil.rmtree(lost.project.parent)
    found = Session(tmp_path / "second machine", drive, repository)
    printed = found.run_all()
    assert "resuming from checkpoints/" in printed
    assert "Running stage 'preprocess'" not in printed
    assert not (found.project / "data").exists()
    assert hashes(found.project) == hashes(whole.project)


@pytest.mark.slow
@pytest.mark.drill
def test_stopping_a_cell_saves_and_backs_up(repository: Path, tmp_path: Path):
    session = Session(tmp_path / "machine", tmp_path / "My Drive", repository)
    how = session.run_until((session.project / "checkpoints/previous.ckpt").exists, interrupt)
    assert how is CellExecutionError
    printed = session.result()
    assert "stopped, since it received SIGINT" in printed
    assert "all is backed up on" in printed
