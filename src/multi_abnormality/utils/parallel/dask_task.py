"""Task that a Dask worker runs, after checking that its environment matches the client's."""

import hashlib
import importlib.metadata
import pickle
import platform
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from multi_abnormality.utils.errors import InputError

_DECIDING = (
    "isal",
    "numpy",
    "pydicom",
    "pylibjpeg-openjpeg",
    "python-gdcm",
    "zstandard",
)  # libraries that read and compress volumes


@dataclass(frozen=True)
class EnvironmentCheck:
    """Shared paths, code and package versions of the client."""

    paths: tuple[str, ...]  # absolute
    code_sha256: str
    versions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TaskResult:
    result: Any
    warnings: tuple[str, ...]  # about the worker's environment, to be logged once


def run_task(expected: EnvironmentCheck, call: bytes) -> TaskResult:
    """Run a pickled call.

    Raises:
        InputError: on this machine the call might give other results than on the client.
    """
    warnings = _compare(expected)
    function, arguments = pickle.loads(call)
    return TaskResult(function(*arguments), warnings)


@lru_cache(maxsize=1)
def _compare(expected: EnvironmentCheck) -> tuple[str, ...]:
    host = socket.gethostname()
    for path in expected.paths:
        if not Path(path).exists():
            raise InputError(
                f"machine.dask: the worker on {host} cannot see {path}; all machines must have "
                "data and results under the same paths, on a shared file system"
            )
    if code_hash() != expected.code_sha256:
        raise InputError(
            f"machine.dask: the worker on {host} runs other code of this project "
            f"({_code_folder()}), so its volumes might differ; install the same version there and "
            "start the worker again"
        )
    return tuple(
        f"the Dask worker on {host} has {name} {theirs}, this machine {ours}: volumes may differ"
        for (name, ours), (_, theirs) in zip(expected.versions, versions(), strict=True)
        if ours != theirs
    )


@lru_cache(maxsize=1)
def code_hash() -> str:
    """Return the hash of this package's code."""
    content = hashlib.sha256()
    for path in sorted(_code_folder().rglob("*.py")):
        content.update(path.read_text(encoding="utf-8").encode())
    return content.hexdigest()


def versions() -> tuple[tuple[str, str], ...]:
    packages = ((name, importlib.metadata.version(name)) for name in _DECIDING)
    return (("Python", platform.python_version()), *packages)


def _code_folder() -> Path:
    return Path(__file__).parents[2]
