"""A worker on another machine takes part only if it would make the same volumes."""

import operator
import socket
from dataclasses import replace
from pathlib import Path

import cloudpickle
import pytest

from multi_abnormality.data.work.remote import Expected, attempt, code_hash, versions
from multi_abnormality.errors import InputError

CALL = cloudpickle.dumps((operator.mul, (6, 7)))


@pytest.fixture
def expected(tmp_path: Path) -> Expected:
    """By a machine that is just as this one."""
    return Expected((str(tmp_path),), code_hash(), versions())


def test_a_machine_that_is_alike_does_its_work(expected: Expected):
    answer = attempt(expected, CALL)
    assert (answer.result, answer.remarks) == (42, ())


def test_a_machine_without_the_files_is_named(expected: Expected, tmp_path: Path):
    there = replace(expected, paths=(*expected.paths, str(tmp_path / "sign")))
    with pytest.raises(InputError, match=r"the worker on .* cannot see .*sign; all machines must"):
        attempt(there, CALL)


def test_a_machine_with_other_code_is_named(expected: Expected):
    with pytest.raises(InputError, match=rf"{socket.gethostname()} runs other code .*start the"):
        attempt(replace(expected, code_sha256="0" * 64), CALL)


def test_other_versions_work_and_are_told(expected: Expected):
    other = tuple((name, "0.1" if name == "isal" else here) for name, here in versions())
    answer = attempt(replace(expected, versions=other), CALL)
    assert answer.result == 42
    (remark,) = answer.remarks
    assert f"has isal {dict(versions())['isal']}, this machine 0.1: volumes may differ" in remark
