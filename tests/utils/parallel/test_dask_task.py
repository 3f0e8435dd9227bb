"""A Dask worker only runs tasks if it would make the same volumes as the client."""

import operator
import socket
from dataclasses import replace
from pathlib import Path

import cloudpickle
import pytest

from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.parallel.dask_task import (
    EnvironmentCheck,
    code_hash,
    run_task,
    versions,
)

CALL = cloudpickle.dumps((operator.mul, (6, 7)))


@pytest.fixture
def expected(tmp_path: Path) -> EnvironmentCheck:
    """The environment of a machine identical to this one."""
    return EnvironmentCheck((str(tmp_path),), code_hash(), versions())


def test_an_identical_machine_runs_the_task(expected: EnvironmentCheck):
    answer = run_task(expected, CALL)
    assert (answer.result, answer.warnings) == (42, ())


def test_a_machine_without_the_files_is_named(expected: EnvironmentCheck, tmp_path: Path):
    elsewhere = replace(expected, paths=(*expected.paths, str(tmp_path / "marker")))
    with pytest.raises(
        InputError, match=r"the worker on .* cannot see .*marker; all machines must"
    ):
        run_task(elsewhere, CALL)


def test_a_machine_with_other_code_is_named(expected: EnvironmentCheck):
    with pytest.raises(InputError, match=rf"{socket.gethostname()} runs other code .*start the"):
        run_task(replace(expected, code_sha256="0" * 64), CALL)


def test_other_versions_are_warned_about(expected: EnvironmentCheck):
    other = tuple((name, "0.1" if name == "isal" else here) for name, here in versions())
    answer = run_task(replace(expected, versions=other), CALL)
    assert answer.result == 42
    (warning,) = answer.warnings
    assert f"has isal {dict(versions())['isal']}, this machine 0.1: volumes may differ" in warning
