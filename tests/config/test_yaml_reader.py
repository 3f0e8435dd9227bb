"""params.yaml means to this project what it means to DVC, and no file can exhaust the reader."""

import re
import time

import pytest
from dvc.utils.serialize import parse_yaml
from ruamel.yaml.error import YAMLError

from multi_abnormality.config.yaml_reader import load_yaml

DOCUMENTS = [
    "[1e-4, on, 010, 1:30, 0o17, 1_000, .5, .inf, ~, 2001-01-01]",
    *("a: 1\nb: [010, 1:30, {c: yes}]\n", "\ufeffa: 010\n", "%YAML 1.2\n---\na: 010\n", "010: a\n"),
    *("{a: 1, 'b': 2}", "'1': a\n1: b\n", "yes: 1\ntrue: 2\n", "? a\n: 1\n", "=: 1\n", "", "# a"),
    "a: &a {x: 1}\nb: {<<: *a, x: 2}\nc: {<<: [*a, {y: 010}]}\n",
    "p: {q: &b {<<: {x: 1}, x: 2}}\nc: {<<: *b}\n",
    "a: &a [1, 2]\nb: *a\n",
]


def same(text: str) -> bool:
    """Whether both readers find equal values of equal types."""
    ours, dvcs = load_yaml(text), parse_yaml(text, "params.yaml")
    # DVC makes an empty mapping of an empty file.
    return re.sub(r"tzinfo=.*", "", repr(ours or {})) == re.sub(r"tzinfo=.*", "", repr(dvcs or {}))


@pytest.mark.parametrize("text", DOCUMENTS)
def test_a_document_has_the_values_that_dvc_finds(text: str):
    assert same(text)


def test_the_default_parameters_are_the_same(request: pytest.FixtureRequest):
    assert same((request.config.rootpath / "params.yaml").read_text(encoding="utf-8"))


def bomb(first: str, wrap: str) -> str:
    """Each key is ten times the one before."""
    lines = [f"a: &a {first}"]
    for last, key in zip("abcdefghijk", "bcdefghijkl", strict=True):
        lines.append(f"{key}: &{key} {wrap.format(', '.join([f'*{last}'] * 10))}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (bomb("[1]", "[{}]"), "has more than 10,000 values, aliases expanded"),
        (bomb("{k: 1}", "{{<<: [{}]}}"), "has more than 10,000 values, aliases expanded"),
        ("[1" + ", 1" * 20_000 + "]", "has more than 10,000 values"),
        ("# " * 600_000, "has more than 1,000,000 characters"),
        ("a: &a [*a]", "the value contains itself"),
        ("a: &a {b: *a}", "the value contains itself"),
        ("a: &a\n  <<: *a\n", "the value contains itself"),
        ("[" * 100_000, "is nested more than 50 levels deep"),
        ("{a: " * 10_000, "is nested more than 50 levels deep"),
        ("- " * 10_000, "is nested more than 50 levels deep"),
        ("? " * 10_000, "is nested more than 50 levels deep"),
        ("a: " + "9" * 10_000, "has a value that cannot be read"),
        ("a: 2001-02-30", "has a value that cannot be read"),
        ("a: 1\na: 2\n", 'found duplicate key "a"'),
        ("a: !!python/name:os.system x\n", "could not determine a constructor"),
    ],
)
def test_files_that_would_hang_or_be_ambiguous_are_rejected(text: str, problem: str):
    start = time.process_time()
    with pytest.raises(YAMLError, match=problem):
        load_yaml(text)
    assert time.process_time() - start < 10
