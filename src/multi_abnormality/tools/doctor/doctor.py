"""`multi-abnormality doctor`: check whether a training run can start here."""

import json as json_format
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from multi_abnormality.tools.doctor.check_checkpoint import check_checkpoint
from multi_abnormality.tools.doctor.check_machine import check_device, check_disks
from multi_abnormality.tools.doctor.check_model import check_model, check_split
from multi_abnormality.tools.doctor.check_packages import check_packages, check_python
from multi_abnormality.tools.doctor.check_project import (
    check_data,
    check_no_other_training,
    check_params,
    check_stages,
)
from multi_abnormality.tools.doctor.check_remotes import check_dvc_remote, check_git
from multi_abnormality.tools.doctor.context import (
    FAIL,
    OK,
    WARN,
    Check,
    CheckResult,
    DoctorContext,
    run_check,
)
from multi_abnormality.utils.console import console, wrap_words

INSTALLATION_CHECKS: tuple[tuple[str, Check], ...] = (
    ("Python", check_python),
    ("packages", check_packages),
)
PROJECT_CHECKS: tuple[tuple[str, Check], ...] = (
    ("params.yaml", check_params),
    ("device", check_device),
    ("data/", check_data),
    ("disk", check_disks),
    ("training", check_no_other_training),
    ("stages", check_stages),
    ("split", check_split),
    ("checkpoint", check_checkpoint),
    ("model", check_model),
    ("DVC remote", check_dvc_remote),
    ("Git", check_git),
)

COLOURS = {OK: "32", WARN: "33", FAIL: "1;31"}  # ANSI codes
STATUS, PART = 6, 14  # widths of the first columns
PLAIN_WIDTH = 100  # columns without a terminal


def examine(context: DoctorContext) -> Iterator[CheckResult]:
    """Run all checks, whatever is broken; outside of a project, only those of the installation."""
    is_project = any((context.root / name).exists() for name in ("dvc.yaml", ".dvc"))
    for part, check in INSTALLATION_CHECKS + (PROJECT_CHECKS if is_project else ()):
        yield from run_check(part, check, context)
    if not is_project:
        text = "not the project's folder: it has neither dvc.yaml nor .dvc/"
        yield CheckResult(FAIL, text, "cd to the project's folder", "project")


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Check whether training can run here.

    Prints what would make a training run fail, and the command that fixes it. The exit code is 1 if
    anything would.
    """
    context, results = DoctorContext(Path()), []
    is_shown = (WARN, FAIL) if console.is_quiet else (OK, WARN, FAIL)
    for result in examine(context):
        results.append(result)
        if not json and result.status in is_shown:
            print_result(result)
    fails = any(result.status == FAIL for result in results)
    if json:
        _write(json_format.dumps([asdict(result) for result in results], indent=2))
    elif fails:
        _write("Training would fail here. Fix what is marked FAIL, from the top.")
    elif not console.is_quiet:
        _write(_closing(context))
    if fails:
        sys.exit(1)


def print_result(result: CheckResult) -> None:
    """Print a result, and below it the command that fixes it; in colour on a terminal."""
    status = f"{result.status:<{STATUS}}"
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        status = f"\x1b[{COLOURS[result.status]}m{status}\x1b[0m"
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_WIDTH
    text, *more = wrap_words(result.text, max(columns - STATUS - PART, 40))
    _write(f"{status}{result.part:<{PART}}{text}")
    for line in [*more, *([f"→ {result.help}"] if result.help else [])]:
        _write(f"{'':<{STATUS + PART}}{line}")


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()  # each result as soon as it is known


def _closing(context: DoctorContext) -> str:
    if context.stages_to_run == ():
        return f"Every stage is up to date: `{context.command}` has nothing to do."
    return f"Training can run here: `{context.command}`."
