"""Formatting of a comparison: verdict, tables and numbers."""

import numpy as np
import pytest

from compared_models import comparison_of
from multi_abnormality.tools.compare.comparison_tables import (
    format_p_value,
    format_signed,
    print_tables,
    verdict,
)


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(2, size=(80, 2))


@pytest.fixture
def guess() -> np.ndarray:
    return np.random.default_rng(1).random((80, 2))


def test_verdict_on_macro_auroc_and_findings(labels, guess):
    better = np.where([True, False], 0.5 * guess + 0.5 * labels, guess)
    assert verdict(comparison_of(labels, guess, better))[0].startswith("B is better than A: macro")
    assert verdict(comparison_of(labels, better, guess))[0].startswith("B is worse than A: macro")
    found = verdict(comparison_of(labels, guess, better))[1]
    assert found.endswith("B is better at Emphysema, worse at none.")


def test_verdict_distinguishes_no_difference_from_equality(labels, guess):
    other = np.random.default_rng(2).random((80, 2))
    assert (
        "No difference between A and B is shown" in verdict(comparison_of(labels, guess, other))[0]
    )
    assert verdict(comparison_of(labels, guess, guess)) == [
        "A and B predict the same, to the last bit."
    ]


def test_undefined_scores_are_dashes(guess, capsys):
    comparison = comparison_of(np.zeros((80, 2), int), guess, guess[::-1])
    print_tables(comparison)
    printed = capsys.readouterr().out
    assert "AUROC is undefined" in printed
    assert "\N{EN DASH}" in printed


def test_numbers_and_p_values_are_formatted():
    assert [format_signed(value) for value in (0.0124, -0.5, -1e-9, None)] == [
        "+0.012", "\N{MINUS SIGN}0.500", "0.000", "\N{EN DASH}",
    ]  # fmt: skip
    assert [format_p_value(value) for value in (1.0, 0.0499, 0.00049975, None)] == [
        "1.00", "0.050", "0.0005", "\N{EN DASH}",
    ]  # fmt: skip
