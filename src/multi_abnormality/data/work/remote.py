"""What runs on another machine: is it one that may take part?"""

import hashlib
import importlib.metadata
import pickle
import platform
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from multi_abnormality.errors import InputError

_DECIDING = (
    "isal",
    "numpy",
    "pydicom",
    "pylibjpeg-openjpeg",
    "python-gdcm",
    "scipy",
    "zstandard",
)  # what reads, what packs


@dataclass(frozen=True)
class Expected:
    """What the machine that asks sees and has."""

    paths: tuple[str, ...]  # absolute
    code_sha256: str
    versions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Answer:
    result: Any
    remarks: tuple[str, ...]  # that a user should read, once


def attempt(expected: Expected, call: bytes) -> Answer:
    """Do a pickled call.

    Raises:
        InputError: another machine than this would make of the files what was asked for.
    """
    remarks = _compare(expected)
    function, arguments = pickle.loads(call)
    return Answer(function(*arguments), remarks)


@lru_cache(maxsize=1)
def _compare(expected: Expected) -> tuple[str, ...]:
    host = socket.gethostname()
    for path in expected.paths:
        if not Path(path).exists():
            raise InputError(
                f"machine.dask: the worker on {host} cannot see {path}; all machines must have "
                "data and results under the same paths, on a file system that they share"
            )
    if code_hash() != expected.code_sha256:
        raise InputError(
            f"machine.dask: the worker on {host} runs other code of this project "
            f"({_code_folder()}), so its volumes might differ; install the same version there and "
            "start the worker again"
        )
    return tuple(
        f"the Dask worker on {host} has {name} {there}, this machine {here}: volumes may differ"
        for (name, here), (_, there) in zip(expected.versions, versions(), strict=True)
        if here != there
    )


@lru_cache(maxsize=1)
def code_hash() -> str:
    """Of the code that this process has loaded or would load for data."""
    content = hashlib.sha256()
    for path in sorted(_code_folder().rglob("*.py")):
        content.update(path.read_text(encoding="utf-8").encode())
    return content.hexdigest()


def versions() -> tuple[tuple[str, str], ...]:
    packages = ((name, importlib.metadata.version(name)) for name in _DECIDING)
    return (("Python", platform.python_version()), *packages)


def _code_folder() -> Path:
    return Path(__file__).parents[1]
