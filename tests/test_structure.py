"""How the house is built: stages depend on what they use, imports go one way, nothing is unused."""

import ast
import functools
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from documents import ROOT
from multi_abnormality.params import Params, Section
from multi_abnormality.run_fingerprint import SOURCES

SOURCE = ROOT / "src"
PACKAGE = SOURCE / "multi_abnormality"
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

# What a stage imports without depending on it. Of every stage:
GENERAL = {
    "_torch.py": "loads PyTorch",
    "backup/.*": "checks what DVC pulled and keeps what training made, and changes none of it",
    "(console|errors|noise|progress_bar).py": "what is said, to whom",
    "files.py": "how files are written, not what",
    "memory.py": "how much room there is",
    r"(params\w*|section|yaml12).py": "what these read is tracked as params",
}
# And of single ones:
BESIDE = {
    "preprocess": {},
    "train": {
        "findings.py": "the processed set says which",
    },
    "evaluate": {
        "training/(checkpoints|files|history).py": "reads a checkpoint and the history, both deps",
    },
    "export": {
        "evaluation/(checks|curves).py": "of fitting, which evaluate did",
        "findings.py": "the processed set says which",
        "training/(checkpoints|files|history).py": "reads a checkpoint, which is a dep",
    },
}
# A folder stands whole, so that a new file in it is a dependency too.
FOLDERS = {"data/io", "data/work", "evaluation", "export", "model", "training"}

ORDER = ("data", "model", "training", "evaluation", "export", "predict")
LAST = {"resume", "stages"}  # call all others, and are called by none

# Dependencies that no module imports, and what needs them.
UNIMPORTED = {
    "cryptography": "dvc-gdrive",
    "dvc-gdrive": "DVC, for a remote on Google Drive",
    "onnx": "torch.onnx",
    "onnxscript": "torch.onnx",
    "pydrive2": "dvc-gdrive",
    "pyopenssl": "dvc-gdrive",
    "tensorboard": "torch.utils.tensorboard",
    "torchvision": "timm; _torch.py mends it without importing it",
}


@functools.cache
def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, anywhere but for types alone."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.module, f"{path}: imports are absolute here"
                found.add(child.module)
                found.update(f"{child.module}.{alias.name}" for alias in child.names)
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def file_of(name: str) -> Path | None:
    place = SOURCE / name.replace(".", "/")
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)


@functools.cache
def neighbours(path: Path) -> set[Path]:
    """Files of this package that one imports."""
    return {file for name in imported(path) if (file := file_of(name))}


def closure(path: Path) -> set[str]:
    """Files, relative to the package, that run when one is run; without empty ones."""
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            waiting += neighbours(file)
    return {relative(file) for file in seen if file.stem != "__init__"}


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def code_deps(stage: str) -> dict[str, set[str]]:
    """The files, relative to the package, of each dependency that is code."""
    found = {}
    for dep in STAGES[stage]["deps"]:
        if dep.startswith("src/"):
            path = ROOT / dep
            files = path.rglob("*.py") if path.is_dir() else [path]
            found[relative(path)] = {relative(file) for file in files}
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_that_it_imports(stage: str):
    known = set().union(*code_deps(stage).values())
    beside = "|".join(f"(?:{pattern})" for pattern in GENERAL | BESIDE[stage])
    missing = closure(PACKAGE / f"stages/{stage}.py") - known
    assert {name for name in missing if not re.fullmatch(beside, name)} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_nothing_else(stage: str):
    used = closure(PACKAGE / f"stages/{stage}.py")
    deps = code_deps(stage)
    assert [dep for dep, files in deps.items() if not files & used] == []
    assert {dep for dep in deps if (PACKAGE / dep).is_dir()} <= FOLDERS
    beside = used - set().union(*deps.values())
    assert [pattern for pattern in BESIDE[stage] if not matching(pattern, beside)] == []


def matching(pattern: str, names: set[str]) -> list[str]:
    return [name for name in names if re.fullmatch(pattern, name)]


def test_every_dependency_exists():
    code = {dep for stage in STAGES.values() for dep in stage["deps"] if dep.startswith("src/")}
    assert [dep for dep in code if not (ROOT / dep).exists()] == []


def test_train_depends_on_what_identifies_a_checkpoint():
    assert code_deps("train").keys() == set(SOURCES)


def test_no_package_imports_a_later_one():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        package = relative(path).partition("/")[0].removesuffix(".py")
        later = set(ORDER[ORDER.index(package) + 1 :]) if package in ORDER else set()
        for other in neighbours(path):
            name = relative(other).partition("/")[0].removesuffix(".py")
            if name != package and name in later | LAST:
                wrong.append(f"{relative(path)} imports {relative(other)}")
    assert wrong == []


def modules(*folders: Path) -> set[str]:
    """The first part of every name that is imported there."""
    files = [file for folder in folders for file in folder.rglob("*.py")]
    return {name.partition(".")[0] for file in files for name in imported(file)}


def test_dependencies_are_those_that_are_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w-]+", line)[0].lower() for line in project["dependencies"]}
    homes = packages_distributions()
    foreign = modules(SOURCE) - sys.stdlib_module_names - {PACKAGE.name}
    needed = {home.lower().replace("_", "-") for name in foreign for home in homes[name]}
    assert needed - declared == set()
    assert declared - needed == UNIMPORTED.keys()


def keys(section: type[Section]) -> set[str]:
    """Names of a section's parameters, and of those below it."""
    found = set()
    for name, field in section.model_fields.items():
        inner = field.annotation
        is_section = isinstance(inner, type) and issubclass(inner, Section)
        found |= keys(inner) if is_section else {name}
    return found


def test_every_parameter_is_read():
    """By its name, as an attribute, somewhere but where it is declared."""
    read = {
        node.attr
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls")
    }
    assert keys(Params) - read == set()
