"""Checks of Python, the installed packages, and known conflicts between them."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from multi_abnormality.tools.doctor.context import (
    CheckResult,
    DoctorContext,
    failure,
    passed,
    warning,
)
from multi_abnormality.utils.errors import INSTALL_ALL, first_few

OLDEST = (3, 11)  # as in pyproject.toml
_PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+)")


def check_python(context: DoctorContext) -> Iterator[CheckResult]:
    """Python's version, and whether `python`, which DVC starts stages with, is this one."""
    here, program = context.root.absolute(), Path(sys.executable)
    shown = program.relative_to(here) if program.is_relative_to(here) else program
    text = f"{sys.version.split()[0]}, {shown}"
    if sys.version_info < OLDEST:
        yield failure(
            f"{text}; it must be {OLDEST[0]}.{OLDEST[1]} or later", "make repro PYTHON=python3.11"
        )
        return
    ask = ["python", "-c", "import sys; print(sys.prefix)"]
    try:
        done = subprocess.run(ask, cwd=context.root, capture_output=True, text=True, check=False)
        other = done.stdout.strip() or done.stderr.strip()
    except OSError:
        other = "none"
    if other != sys.prefix:
        yield failure(
            f"{text}; but `python`, which DVC runs stages with, is {other}",
            f"source {Path(sys.prefix) / 'bin/activate'}",
        )
        return
    yield passed(text)


def check_packages(context: DoctorContext) -> Iterator[CheckResult]:
    """Whether all packages are installed in the versions that requirements.txt pins."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        required = requires("multi-abnormality") or []
    except PackageNotFoundError:
        yield warning("the project itself is not installed", "pip install --no-deps --editable .")
        return
    pins = context.root / "requirements.txt"
    extras = ("train", "backup") if _version("dvc-gdrive") else ("train",)
    if unsuitable := list(_unsuitable(required, extras)):
        command = f"pip install 'multi-abnormality[{','.join(extras)}]'"
        yield failure(first_few(unsuitable), INSTALL_ALL if pins.is_file() else command)
        return
    pinned = dict(_PIN.findall(pins.read_text(encoding="utf-8"))) if pins.is_file() else {}
    others = [
        f"{name} {installed or 'is missing'}, not {pin}"
        for name, pin in pinned.items()
        if (installed := _version(name)) is None or installed.partition("+")[0] != pin
    ]
    if others:
        yield warning(
            "versions differ from requirements.txt, so results may differ in their last digits: "
            f"{'; '.join(others)}",
            INSTALL_ALL,
        )
    else:
        yield passed(f"all {len(pinned) or len(required)} in the required versions")


def _unsuitable(required: list[str], extras: tuple[str, ...]) -> Iterator[str]:
    from packaging.requirements import Requirement

    for requirement in map(Requirement, required):
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in extras):
            continue
        installed = _version(requirement.name)
        if installed is None:
            yield f"{requirement.name} is missing"
        elif not requirement.specifier.contains(installed, prereleases=True):
            yield f"{requirement.name} {installed} does not satisfy {requirement.specifier}"


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # 40 ms, which predict saves

    try:
        return version(name)
    except PackageNotFoundError:
        return None
