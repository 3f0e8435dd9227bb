"""Commands, flags, parameters and files in the guides exist."""

import ast
import contextlib
import functools
import importlib
import importlib.util
import io
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from dvc.cli import DvcParserError
from dvc.cli.parser import get_main_parser

from documents import (
    ROOT,
    Command,
    code_spans,
    commands,
    documents,
    is_generated,
    links,
    mentions,
    simple_commands,
)
from multi_abnormality.cli import COMMANDS
from multi_abnormality.config.schema import Params, Section
from program_server import run_python

DOCUMENTS = documents()
PACKAGE = "multi_abnormality"
# Programs of others that the guides name; what they do is theirs to keep.
OTHERS = (
    *("bash", "cat", "cd", "cp", "export", "ls", "mkdir", "mv", "rm", "scontrol"),
    *("source", "srun"),
    *("dask", "docker", "git", "gto", "hf", "mlflow", "pip", "tensorboard"),
    *("torchrun", "wandb"),
)
FILES = (".py", ".json", ".csv", ".yaml", ".md", ".dvc")
TARGETS = set(re.findall(r"^([\w./-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


# Files that send users to a page of docs/.
CODE = (
    "src", "recipes", "params.yaml", "Makefile", "notebooks", "submission", "tests", ".dvc",
    "dvc.yaml",
)  # fmt: skip


def run_git(*arguments: str) -> list[str]:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def identify(document: Path) -> str:
    return str(document.relative_to(ROOT))


def all_commands(document: Path) -> list[Command]:
    return commands(document) + mentions(document)


def help_of(*program: str) -> str:
    code, output = run_python(ROOT, os.environ | {"COLUMNS": "200"}, *program, "--help")
    assert code == 0, output
    return output


@functools.cache
def module_help(name: str) -> str:
    """What a stage prints for --help; empty for other modules, which are no programs."""
    return help_of(name) if name.startswith(f"{PACKAGE}.stages.") else ""


@functools.cache
def command_help(name: str) -> str:
    """What a command prints for --help; for an option, what the program prints."""
    return help_of(PACKAGE, *([] if name.startswith("-") else [name]))


def runs_as_module(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations:
        return importlib.util.find_spec(f"{name}.__main__") is not None
    return spec is not None


@functools.cache
def dvc_help(verbs: tuple[str, ...]) -> str:
    """What DVC prints for --help of a command; empty where there is none."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        try:
            get_main_parser().parse_args([*verbs, "--help"])
        except SystemExit as end:
            return printed.getvalue() if not end.code else ""
        except DvcParserError:
            return ""
    return printed.getvalue()


def flags(arguments: list[str]) -> list[str]:
    return [
        argument.partition("=")[0] for argument in arguments if re.match(r"--?[a-zA-Z]", argument)
    ]


def unknown_flags(arguments: list[str], printed: str) -> list[str]:
    known = set(re.findall(r"(?<![\w-])--?[\w-]+", printed))
    return [flag for flag in flags(arguments) if flag not in known]


def fault_of_module(arguments: list[str]) -> str | None:
    name = arguments[0]
    if not runs_as_module(name):
        return f"there is no module {name}"
    printed = module_help(name) if flags(arguments) else ""
    wrong = unknown_flags(arguments[1:], printed)
    return f"{name} has no {wrong}" if wrong else None


def fault_of_command(arguments: list[str]) -> str | None:
    name = arguments[0]
    if name not in COMMANDS and not name.startswith("-"):
        return f"multi-abnormality has no {name}"
    wrong = unknown_flags(arguments, command_help(name)) if flags(arguments) else ""
    return f"multi-abnormality {name} has no {wrong}" if wrong else None


def fault_of_dvc(arguments: list[str]) -> str | None:
    if arguments[:1] == ["--wait-for-lock"]:
        arguments = arguments[1:]
    verbs = [argument for argument in arguments if not argument.startswith("-")][:2]
    printed = dvc_help(tuple(verbs))
    if not printed:
        return f"dvc has no {' '.join(verbs)}"
    wrong = unknown_flags(arguments, printed)
    return f"dvc {' '.join(verbs)} has no {wrong}" if wrong else None


def fault_of_python(arguments: list[str]) -> str | None:
    if arguments[0] == "-c":
        return None
    if arguments[0] == "-m" and arguments[1].partition(".")[0] == PACKAGE:
        return fault_of_module(arguments[1:])
    if arguments[0] == "-m":
        place = ROOT / "benchmarks" / arguments[1].replace(".", "/")
        is_known = place.is_dir() or importlib.util.find_spec(arguments[1]) is not None
        return None if is_known else f"there is no module {arguments[1]}"
    script = ROOT / arguments[0]
    if not script.exists():
        return f"there is no {arguments[0]}"
    wrong = [flag for flag in flags(arguments[1:]) if f'"{flag}"' not in script.read_text()]
    return f"{arguments[0]} has no {wrong}" if wrong else None


def fault(simple: list[str]) -> str | None:
    """What is wrong with a command, without running it."""
    program, arguments = simple[0], simple[1:]
    if program == "multi-abnormality":
        return fault_of_command(arguments)
    if program == "torchrun":
        return fault_of_module(arguments[arguments.index("-m") + 1 :])
    if program == "make":
        wrong = [name for name in arguments if "=" not in name and name not in TARGETS]
        return f"the Makefile has no {wrong}" if wrong else None
    if program == "dvc":
        return fault_of_dvc(arguments)
    if program == "python":
        return fault_of_python(arguments)
    return None if program in OTHERS else f"{program}: is no program that the guides use"


@pytest.mark.parametrize("document", DOCUMENTS, ids=identify)
def test_every_command_exists(document: Path):
    faults = [
        f"{command.place}: {command.text}: {wrong}"
        for command in all_commands(document)
        for simple in simple_commands(command.text)
        if (wrong := fault(simple))
    ]
    assert faults == []


def test_commands_that_do_not_exist_are_found():
    for wrong in (
        "multi-abnormality guess SCAN",
        "multi-abnormality predict SCAN --louder",
        "python benchmarks/nothing.py",
        "make tea && dvc repro",
        "dvc experiment",
        "dvc exp guess",
        "dvc repro --all-at-once",
        "frobnicate",
    ):
        assert any(fault(simple) for simple in simple_commands(wrong)), wrong
    right = "COLUMNS=80 dvc exp run -S train.epochs=3 && make repro   # and more"
    assert [fault(simple) for simple in simple_commands(right)] == [None, None]


def keys(section: type[Section], prefix: str = "") -> set[str]:
    found = set()
    for name, field in section.model_fields.items():
        found.add(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found |= keys(field.annotation, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=identify)
def test_every_parameter_exists(document: Path):
    sections = "|".join(Params.model_fields)
    named = re.compile(rf"(?:{sections})\.([a-z_.]+[a-z_])(?:[:=].*)?")
    texts = code_spans(document)
    texts += [word for command in commands(document) for word in command.text.split()]
    found = {text.partition(":")[0].partition("=")[0] for text in texts if named.fullmatch(text)}
    assert {name for name in found if not name.endswith(FILES)} - keys(Params) == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=identify)
def test_python_examples_import_what_exists(document: Path):
    for block in re.findall(r"^```python\n(.*?)^```", document.read_text(), re.M | re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
                module = importlib.import_module(node.module)
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []


def headings(document: Path) -> set[str]:
    """Anchors, as GitHub makes them of headings."""
    lines = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("document", DOCUMENTS, ids=identify)
def test_every_link_leads_somewhere(document: Path):
    lost = []
    for link in links(document):
        path, _, anchor = link.partition("#")
        if "://" in path or path.startswith("mailto:"):
            continue
        # On GitHub the page of a workflow, beside that of the README.
        path = path.replace("../../actions", ".github").removesuffix("/badge.svg")
        target = document.parent / path if path else document
        is_there = target.exists() and not is_generated(target)
        is_there = is_there and (not anchor or anchor in headings(target))
        lost += [] if is_there else [link]
    assert lost == []


def test_every_page_that_code_names_exists():
    files = [ROOT / name for name in run_git("ls-files", *CODE)]
    texts = {path: path.read_text(encoding="utf-8", errors="ignore") for path in files}
    named = {
        (str(path.relative_to(ROOT)), page)
        for path, text in texts.items()
        for page in re.findall(r"\bdocs/[\w./-]*\w\.md\b", text)
    }
    assert named
    assert [(path, page) for path, page in sorted(named) if not (ROOT / page).exists()] == []


def test_every_file_that_contributing_names_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"\b(?:src|docs|tests|benchmarks)/[\w./-]+\.(?:md|py)\b", text))
    assert named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_guide_is_linked_by_another():
    linked = {
        (document.parent / link.partition("#")[0]).resolve()
        for document in DOCUMENTS
        for link in links(document)
    }
    assert [path for path in DOCUMENTS if path not in linked and path.parent != ROOT] == []


def test_a_bare_make_lists_the_targets():
    done = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    listed = {line.split()[1] for line in done.stdout.splitlines()}
    assert listed == {target for target in TARGETS if target.isalpha()} - {"data"}


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"authors", "cff-version", "message", "title"} <= citation.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    (bibtex,) = re.findall(r"```bibtex\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert f"version = {{{citation['version']}}}" in bibtex
    assert f"license = {{{citation['license']}}}" in bibtex


def test_the_workflow_runs_what_contributors_run():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert "bash .ci/run" in [step.get("run") for step in job["steps"]]
    assert job["strategy"]["matrix"]["python"][0] == "3.11"
    workflow = yaml.safe_load((ROOT / ".github/workflows/docs.yml").read_text())
    steps = workflow["jobs"]["build"]["steps"]
    assert "make docs" in [step.get("run") for step in steps]
    assert steps[-1]["with"]["path"] == "site"


def test_files_in_git_are_in_git():
    """Results, too: what `git restore .` does not restore is another run's after an experiment."""
    text = (ROOT / "docs/reference/files.md").read_text()
    section = text.partition("## Files in Git")[2].partition("\n## ")[0]
    named = {
        name
        for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", row)
    }
    assert {"dvc.lock", "metrics/history.csv"} <= named
    assert named - set(run_git("ls-files")) == set()
