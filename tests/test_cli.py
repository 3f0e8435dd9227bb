"""Every program answers --help before it imports what takes seconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from multi_abnormality import __version__
from multi_abnormality.cli import COMMANDS
from multi_abnormality.utils.errors import INSTALL_ALL, install_command

HEAVY = {
    "dask", "distributed", "dvc", "huggingface_hub", "lightning", "nibabel", "numpy", "onnxruntime",
    "pandas", "PIL", "scipy", "SimpleITK", "sklearn", "timm", "torch", "torchvision",
}  # fmt: skip
STAGES = ("preprocess", "train", "evaluate", "export")

LOADED = """
import runpy, sys
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
finally:
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_takes_no_heavy_package(name: str):
    command = [sys.executable, "-c", LOADED, "multi_abnormality", name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert f"Usage: multi-abnormality {name} " in done.stdout
    assert "-q, --quiet" in done.stdout
    assert "-v, --verbose" in done.stdout
    assert HEAVY.intersection(done.stderr.split()) == set()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "multi_abnormality", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_the_command_lists_its_commands(arguments: tuple[str, ...]):
    done = run(*arguments)
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_command_has_a_version():
    assert run("--version").stdout == f"multi-abnormality {__version__}\n"


def test_an_unknown_command_is_an_error():
    done = run("predikt")
    assert done.returncode == 2
    assert "No such command 'predikt'. Did you mean 'predict'?" in done.stderr


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("download", "--max-gb", "-1"),
        ("download", "--workers", "0"),
        ("download", "--retries", "-1"),
        ("sample", "--patients", "1"),
        ("sample", "--seed", "-1"),
        ("sample", "--size", "3"),
        ("sample", "--slices", "5"),
        ("sample", "--workers", "0"),
    ],
)
def test_a_number_out_of_range_is_an_error(command: str, option: str, value: str):
    done = run(command, option, value)
    assert done.returncode == 2
    assert f"Invalid value for '{option}'" in " ".join(done.stderr.split())


def test_quiet_and_verbose_exclude_each_other():
    done = run("recipe", "--list", "-q", "-v")
    assert done.returncode == 2
    assert "Invalid value for --verbose: cannot be used with --quiet" in done.stderr


@pytest.mark.parametrize(
    ("module", "name"),
    [("predict", "predict"), ("resume", "resume")]
    + [
        (command.__module__.partition(".")[2], name)
        for name, command in COMMANDS.items()
        if command.__module__.startswith("multi_abnormality.") and name != "resume"
    ]
    + [("tools.resume", "resume")],
)
def test_a_module_that_is_not_a_program_names_the_command(module: str, name: str):
    command = [sys.executable, "-m", f"multi_abnormality.{module}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"it is now the command `multi-abnormality {name}`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "package"),
    [
        (("multi_abnormality", "find-lr"), "torch"),
        (("multi_abnormality", "download", "--max-gb", "1"), "pandas"),
        (("multi_abnormality", "resume"), "diskcache"),
        (("multi_abnormality.stages.train",), "diskcache"),
        (("multi_abnormality.stages.export",), "torch"),
    ],
)
def test_a_missing_package_names_the_extra_to_install(
    arguments: tuple[str, ...], package: str, tmp_path: Path
):
    program = (
        f"import runpy, sys; sys.modules[{package!r}] = None\n"
        'runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)'
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: the package {package} is missing: pip install 'multi-abnormality[train]'\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("nibabel.nifti1", "pip install 'multi-abnormality[dev]'"),
        ("dvc_gdrive", "pip install 'multi-abnormality[backup]'"),
        ("sklearn.metrics", "pip install 'multi-abnormality[train]'"),
        ("rich.console", INSTALL_ALL),
    ],
)
def test_the_extra_of_a_module_is_found(module: str, command: str):
    assert install_command(module) == command


def test_without_typer_its_installation_is_named():
    program = "import sys; sys.modules['typer'] = None; import multi_abnormality.cli"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"error: the package typer is missing: {INSTALL_ALL}\n"


def test_a_shell_completes_commands_and_options():
    environment = {
        "_MULTI_ABNORMALITY_COMPLETE": "complete_bash",
        "COMP_WORDS": "multi-abnormality pre",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        ["multi-abnormality"], env=os.environ | environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["predict", "preview-augmentation"]


def test_the_package_alone_takes_nothing():
    program = (
        "import sys; before = set(sys.modules)\n"
        "import multi_abnormality; print(*set(sys.modules) - before)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["multi_abnormality"]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_asked_for_help_does_nothing_else(name: str, tmp_path: Path):
    command = [sys.executable, "-c", LOADED, f"multi_abnormality.stages.{name}"]
    done = subprocess.run([*command, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert f"usage: python -m multi_abnormality.stages.{name} [-h] [-q | -v]" in done.stdout
    assert HEAVY.intersection(done.stderr.split()) == set()
    done = subprocess.run([*command, "--epochs", "3"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unrecognized arguments: --epochs 3" in done.stderr
    assert list(tmp_path.iterdir()) == []
