"""params.yaml means to this project what it means to DVC, whose own reader is asked."""

import re
import time

import pytest
import yaml
from dvc.utils.serialize import ParseError, parse_yaml

from multi_abnormality.config.yaml_reader import load_yaml

PLAIN = r"""
0 -0 +0 00 007 010 -010 +010 08 0_8 1 +1 -1 1_000 1_ _1 __1 -_1 _ 12345678901234567890123
0o17 -0o7 +0o7 0o7_7 0o_7 0o8 0o 0O17 0x1F 0x1f -0x1F +0x1F 0X1F 0x 0xG 0b1 -0b10 0b_1 0b2 0B1 0b
1:30 190:20:30 1:30.5 12:30:45 1. 0. 1.0 +1.5 -0.0 0.1e1 01.5 00.5 08.5 685_230.15 1__0.5_ 1.5_
.5 +.5 -.5 ._5 .5e3 .5e+3 .5E-5 +.5e5 .e3 . .. 1e3 1E3 1e+3 1e-4 2E-5 01e3 0e0 1.e3 1.5e-3 12e03
1e 1e1_0 1e3.5 e3 1e1000 -1e1000 .inf +.inf -.inf .Inf .INF .iNF inf .nan .NaN .NAN -.nan nan
~ null Null NULL nULL none None true True TRUE tRUE false False FALSE yes Yes YES no on On off y n Y
2001-01-01 2001-1-1 2001-12-14T21:59:43 2001-12-14t21:59:43.10-05:00 2001-12-14T21:59:43Z 2001-13
+ -- +. -. 1,000 1.2.3 1/2 5h30m 10% 0x1.8p3 '010' "1:30" 'yes' "" a:b c#d -a =x <<x
"""
SCALARS = [*PLAIN.split(), "\uff11\uff17", "\u0661\u0667"]
TAGGED = [
    *("!!str 010", "!!int '010'", "!!int 0o17", "!!float 3", "!!float 1_0", "!!bool yes"),
    *("!!null x", "!!str", "!!str 1:30", "", "# nothing", "|\n  010\n", "a # comment"),
]
DOCUMENTS = [
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


def test_there_are_enough_scalars():
    assert len(set(SCALARS + TAGGED)) > 150


@pytest.mark.parametrize("text", [*SCALARS, *TAGGED])
def test_a_scalar_has_the_value_and_type_that_dvc_finds(text: str):
    assert same(f"key: {text}\n")


@pytest.mark.parametrize("text", DOCUMENTS)
def test_a_document_has_the_values_that_dvc_finds(text: str):
    assert same(text)


def test_the_default_parameters_are_the_same(request: pytest.FixtureRequest):
    assert same((request.config.rootpath / "params.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        *("a: 1\na: 2\n", "0x1: a\n1: b\n", "1: a\n1.0: b\n", "1: a\ntrue: b\n", "~: 1\nnull: 2\n"),
        *("a: {x: 1, x: 2}", "a: &a {x: 1}\nb: {<<: *a, <<: *a}\n", "? {a: b}\n: c\n", "a: <<\n"),
        *("a: =\n", "a: *b\n", "a: !foo x\n", "a: !!python/name:os.system x\n", "a: 2001-02-30\n"),
        *("a: 2001-13-45\n", "a: !!int 3.5\n", "a: !!int ''\n", "a: !!float x\n", "a: !!bool x\n"),
        *("a: !!timestamp x\n", "a: 0x_\n", "a: ._\n", "a: [1, 2", "a: 'x", "a: b: c", "a: \0"),
        *("--- \na: 1\n---\nb: 2\n", "a:\t1\n", "a: 1\n\tb: 2\n", "!!map [1]"),
    ],
)
def test_files_that_dvc_rejects_are_rejected(text: str):
    # The others are those that DVC forgets to catch.
    with pytest.raises((ParseError, ValueError, KeyError, IndexError)):
        parse_yaml(text, "params.yaml")
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)


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
        ("a: " + "9" * 10_000, "cannot be read as int"),
        ("a: 0x" + "9" * 100_000, "cannot be read as int"),
        ("? [a, b]\n: c\n", "found unhashable key"),
        ("%YAML 1.1\n---\na: 010\n", "is not of YAML 1.2; delete the line %YAML"),
        ("a: 1\nb: x\u2028y\n", r"line 2 has the character '\\u2028'; delete it"),
    ],
)
def test_files_that_would_hang_or_be_ambiguous_are_rejected(text: str, problem: str):
    start = time.process_time()
    with pytest.raises(yaml.YAMLError, match=problem):
        load_yaml(text)
    assert time.process_time() - start < 10
