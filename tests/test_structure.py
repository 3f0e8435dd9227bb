"""Structure: stages depend on what they use, imports go one way, nothing is unused."""

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
from multi_abnormality.config.schema import Params, Section
from multi_abnormality.data.catalog.custom_table import GROUP_COLUMNS
from multi_abnormality.runtime.loggers.logger_registry import LOGGERS
from multi_abnormality.runtime.run_fingerprint import IGNORED, ROOTS
from multi_abnormality.tools.ensemble.ensemble_stage import stage_content
from multi_abnormality.utils.code_hash import code_hashes

SOURCE = ROOT / "src"
PACKAGE = SOURCE / "multi_abnormality"
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"] | stage_content("a")["stages"]

# Modules that a stage imports without depending on them. Of every stage:
GENERAL = {
    "__init__.py": "the version",
    "backup/.*": "checks what DVC pulled and uploads what training saved, and changes neither",
    r"config/(?!findings).*": "the values that it reads are tracked as params",
    r"utils/(?!onnx_|rng|strict_csv).*": "logging, errors, memory, writing of files, processes",
}
# And of single ones:
EXEMPT = {
    "preprocess": {},
    "train": {
        "config/findings.py": "the processed set names them",
        "data/io/.*": "only constants and types are used",
    },
    "evaluate": {
        "(runtime|training)/.*": "reads a checkpoint and the history, both deps",
        "data/io/.*": "only constants and types are used",
        "data/transforms/.*": "only types are used",
    },
    "export": {
        "config/findings.py": "the processed set names them",
        "(runtime|training)/.*": "reads a checkpoint, which is a dep",
        "data/io/.*": "only constants and types are used",
    },
    "fuse": {
        "data/(io|preprocessing)/.*": "only constants and types are used",
        "inference/.*|utils/onnx_.*": "loads the members' models as a check, and changes nothing",
    },
}

# Each package imports only from itself and from those before it.
ORDER = (
    "utils", "config", "data/io", "data/catalog", "data/preprocessing", "data/storage",
    "data/transforms", "data/loading", "models", "training", "runtime", "evaluation", "export",
    "inference", "backup", "tools", "stages",
)  # fmt: skip

# Dependencies that no module imports, and what needs them.
UNIMPORTED = {
    "alembic": "MLflow's database",
    "cryptography": "dvc-gdrive",
    "dvc-gdrive": "DVC, for a remote on Google Drive",
    "onnx": "torch.onnx",
    "onnxscript": "torch.onnx",
    "pydrive2": "dvc-gdrive",
    "pyopenssl": "dvc-gdrive",
    "sqlalchemy": "MLflow's database",
    "torchvision": "timm; utils/torchvision_compat.py patches it without importing it",
}


PHANTOM = SOURCE / "chest_phantom"
BASE = ("inference/predict.py", "tools/recipe.py")  # with the sample: run without any extra


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
    exempt = "|".join(f"(?:{pattern})" for pattern in GENERAL | EXEMPT[stage])
    missing = closure(PACKAGE / f"stages/{stage}.py") - known
    assert {name for name in missing if not re.fullmatch(exempt, name)} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_nothing_else(stage: str):
    used = closure(PACKAGE / f"stages/{stage}.py")
    deps = code_deps(stage)
    assert [dep for dep, files in deps.items() if not files & used] == []
    exempt = used - set().union(*deps.values())
    assert [pattern for pattern in EXEMPT[stage] if not matching(pattern, exempt)] == []


def matching(pattern: str, names: set[str]) -> list[str]:
    return [name for name in names if re.fullmatch(pattern, name)]


def test_every_dependency_exists():
    code = {dep for stage in STAGES.values() for dep in stage["deps"] if dep.startswith("src/")}
    assert [dep for dep in code if not (ROOT / dep).exists()] == []


def test_train_depends_on_all_code_of_the_fingerprint():
    hashed = code_hashes(PACKAGE, ROOTS, IGNORED).keys()
    general = "|".join(f"(?:{pattern})" for pattern in GENERAL)
    dependencies = set().union(*code_deps("train").values())
    assert {name for name in hashed - dependencies if not re.fullmatch(general, name)} == set()


def test_the_fingerprint_covers_the_training_step_the_models_and_the_data():
    hashed = code_hashes(PACKAGE, ROOTS, IGNORED).keys()
    for package in ("training", "models", "data/loading", "data/transforms"):
        files = {relative(path) for path in (PACKAGE / package).rglob("*.py")}
        used = files & closure(PACKAGE / "stages/train.py")
        # The weights themselves are part of the fingerprint, by their hash.
    downloads = {"models/hub_files.py", "models/pretrained_weights.py"}
    assert used - hashed - {"models/device.py"} - downloads == set()
    assert not [name for name in hashed if name.startswith(("runtime/", "stages/", "backup/"))]


def package_of(path: Path) -> str:
    first, *rest = relative(path).split("/")
    return f"data/{rest[0]}" if first == "data" and len(rest) > 1 else first


def test_no_package_imports_a_later_one():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        package = package_of(path)
        if package not in ORDER:
            continue
        for other in neighbours(path):
            name = package_of(other)
            if name in ORDER and ORDER.index(name) > ORDER.index(package):
                found.add((relative(path), relative(other)))
    assert found == set()


def test_there_are_no_import_cycles():
    done: set[Path] = set()

    def visit(path: Path, chain: tuple[Path, ...]) -> None:
        assert path not in chain, " -> ".join(map(relative, (*chain, path)))
        if path not in done and path.name != "__init__.py":
            for other in neighbours(path):
                visit(other, (*chain, path))
            done.add(path)

    for path in PACKAGE.rglob("*.py"):
        visit(path, ())


def test_no_two_modules_have_one_file_name():
    names = [path.name for path in SOURCE.rglob("*.py") if not path.name.startswith("__")]
    assert [name for name in set(names) if names.count(name) > 1] == []


def test_the_phantom_package_imports_nothing_of_the_other():
    files = PHANTOM.rglob("*.py")
    assert [
        file for file in files if any("multi_abnormality" in name for name in imported(file))
    ] == []


def modules(*folders: Path) -> set[str]:
    """The first part of every name that is imported there."""
    files = [file for folder in folders for file in folder.rglob("*.py")]
    return {name.partition(".")[0] for file in files for name in imported(file)}


def packages_of(names: set[str]) -> set[str]:
    """The packages that have these modules, without this project and the standard library."""
    homes = packages_distributions()
    tops = {name.partition(".")[0] for name in names}
    foreign = tops - sys.stdlib_module_names - {PACKAGE.name, PHANTOM.name}
    return {home.lower().replace("_", "-") for name in foreign for home in homes[name]}


def test_dependencies_are_those_that_are_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lists = [project["dependencies"], extras["train"], extras["backup"]]
    lists += [extras.get(name, []) for name in LOGGERS]
    base, *others = ({re.match(r"[\w.-]+", line)[0].lower() for line in one} for one in lists)
    declared = base.union(*others)
    needed = packages_of(modules(SOURCE))
    assert needed - declared == set()
    assert declared - needed == UNIMPORTED.keys()
    files = {PACKAGE / name for command in BASE for name in closure(PACKAGE / command)}
    used = packages_of(set().union(*map(imported, {*files, *PHANTOM.rglob("*.py")})))
    assert used - base == {"psutil"}  # only imported for training
    assert base - used == {"packaging"}  # of the doctor, and of ONNX Runtime


def test_evaluate_needs_its_own_extra_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lists = project["dependencies"], extras["evaluate"], extras["train"]
    base, own, train = ({re.match(r"[\w.-]+", line)[0].lower() for line in one} for one in lists)
    files = closure(PACKAGE / "tools/external_test/external_test.py")
    used = packages_of(set().union(*(imported(PACKAGE / file) for file in files)))
    assert used - base - {"psutil"} == own
    assert own <= train


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
    assert keys(Params) - read - set(GROUP_COLUMNS.values()) == set()
