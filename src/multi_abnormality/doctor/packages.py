"""Python, the packages, and those of them that do not go together by themselves."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from multi_abnormality.doctor.house import DOUBT, FAULT, WELL, House, Seen

OLDEST = (3, 11)  # as in pyproject.toml
INSTALL = "pip install --requirement requirements.txt"
DRIVE = ("pydrive2", "pyopenssl", "cryptography")  # the Drive client, and what it takes only so
_PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+)")


def look_at_python(house: House) -> Iterator[Seen]:
    """DVC starts each stage with `python`: it must be this one."""
    here, program = house.root.absolute(), Path(sys.executable)
    shown = program.relative_to(here) if program.is_relative_to(here) else program
    text = f"{sys.version.split()[0]}, {shown}"
    if sys.version_info < OLDEST:
        yield Seen(FAULT, "Python", f"{text}; it must be {OLDEST[0]}.{OLDEST[1]} or later",
                   "make repro PYTHON=python3.11")  # fmt: skip
        return
    ask = ["python", "-c", "import sys; print(sys.prefix)"]
    try:
        done = subprocess.run(ask, cwd=house.root, capture_output=True, text=True, check=False)
        other = done.stdout.strip() or done.stderr.strip()
    except OSError:
        other = "none"
    if other != sys.prefix:
        yield Seen(FAULT, "Python", f"{text}; but `python`, which DVC starts, is {other}",
                   f"source {Path(sys.prefix) / 'bin/activate'}")  # fmt: skip
        return
    yield Seen(WELL, "Python", text)


def look_at_packages(house: House) -> Iterator[Seen]:
    """All there, and as requirements.txt pins them: results are the same bytes only so."""
    try:
        wanted = requires("multi-abnormality") or []
    except PackageNotFoundError:
        yield Seen(DOUBT, "packages", "the project itself is not installed",
                   "pip install --no-deps --editable .")  # fmt: skip
        return
    if unfit := list(_unfit(wanted)):
        yield Seen(FAULT, "packages", "; ".join(unfit), INSTALL)
        return
    pins = house.root / "requirements.txt"
    pinned = dict(_PIN.findall(pins.read_text(encoding="utf-8"))) if pins.is_file() else {}
    others = [
        f"{name} {there or 'is missing'}, not {pin}"
        for name, pin in pinned.items()
        if (there := _version(name)) is None or there.partition("+")[0] != pin
    ]
    if others:
        yield Seen(DOUBT, "packages", "others than requirements.txt pins, so results may differ in "
                   f"their last digits: {'; '.join(others)}", INSTALL)  # fmt: skip
    else:
        yield Seen(WELL, "packages", f"all {len(pinned) or len(wanted)} as they are wanted")


def _unfit(wanted: list[str]) -> Iterator[str]:
    from packaging.requirements import Requirement

    for requirement in map(Requirement, wanted):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        there = _version(requirement.name)
        if there is None:
            yield f"{requirement.name} is missing"
        elif not requirement.specifier.contains(there, prereleases=True):
            yield f"{requirement.name} {there} does not serve, {requirement.specifier} does"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def look_at_torch(_: House) -> Iterator[Seen]:
    """torchvision beside a torch of another build takes a mend, lightning and timm take both."""
    try:
        import_module("multi_abnormality._torch")
        for name in ("torchvision", "timm", "lightning"):
            import_module(name)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # a native library's own
        yield Seen(FAULT, "torch", f"torch and what is built on it can't be imported: {error}",
                   f"{INSTALL} --force-reinstall")  # fmt: skip
        return
    names = ("torch", "torchvision", "timm", "lightning")
    together = ", ".join(f"{name} {_version(name)}" for name in names)
    yield Seen(WELL, "torch", f"{together}: imported together")


def look_at_drive_client(house: House) -> Iterator[Seen]:
    """Newer versions of the three each install, and together can't start."""
    found = ", ".join(f"{name} {_version(name) or 'missing'}" for name in DRIVE)
    try:
        import_module("pydrive2.fs")
        import_module("OpenSSL.crypto")
    except Exception as error:  # AttributeError: module 'lib' has no attribute 'GEN_EMAIL'
        verdict = FAULT if _backs_up_to_drive(house) else DOUBT
        yield Seen(verdict, "Drive client", f"can't start ({error}): {found}", INSTALL)
    else:
        yield Seen(WELL, "Drive client", found)


def _backs_up_to_drive(house: House) -> bool:
    from multi_abnormality.backup.record import open_repository
    from multi_abnormality.backup.setup import OFF

    repo, wanted = open_repository(house.root), house.params and house.params.backup.remote
    if repo is None or wanted == OFF:
        return False
    name = wanted or repo.config["core"].get("remote")
    url: str = repo.config["remote"].get(name, {}).get("url", "")
    return url.startswith("gdrive:")
