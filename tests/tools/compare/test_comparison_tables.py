"""Formatting of a comparison: verdict, tables, plot and numbers."""

from xml.etree import ElementTree

import numpy as np
import pytest

from multi_abnormality.tools.compare.comparison_tables import (
    MINUS,
    PLOT_WIDTH,
    draw_svg,
    format_p_value,
    format_signed,
    print_tables,
    verdict,
)
from multi_abnormality.tools.compare.paired_tests import ResamplingConfig, compare_models

FINDINGS = ("Emphysema", "Consolidation")


def comparison_of(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict:
    patients = [str(row) for row in range(len(labels))]
    draws = ResamplingConfig(100, 0.95, 0)
    return {
        "revisions": {letter: {"name": letter, "commit": None} for letter in "ab"},
        "settings": {"n_bootstrap": 100, "confidence": 0.95, "seed": 0},
        "counts": {
            "scans": len(labels),
            "patients": len(labels),
            "positives": dict(zip(FINDINGS, labels.sum(axis=0).tolist(), strict=True)),
        },
        "same_predictions": bool((first == second).all()),
        **compare_models(labels, first, second, patients, FINDINGS, draws),
    }


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
    assert "AUROC is undefined" in capsys.readouterr().out
    assert "\N{EN DASH}" in "".join(ElementTree.fromstring(draw_svg(comparison)).itertext())


def test_the_plot_spans_the_largest_difference(labels):
    """AUROC 0 against AUROC 1: the difference is 1."""
    picture = ElementTree.fromstring(draw_svg(comparison_of(labels, 1.0 - labels, 1.0 * labels)))
    plots = [text for text in picture.itertext() if "\N{BLACK CIRCLE}" in text]
    assert len(plots) == 7 + len(FINDINGS)
    ends = (f"{MINUS}1.000", "+1.000")
    header = next(text for text in picture.itertext() if all(end in text for end in ends))
    assert plots[0].rstrip().endswith("\N{BLACK CIRCLE}")
    assert "url(" not in draw_svg(comparison_of(labels, 1.0 - labels, 1.0 * labels)).replace(
        "url(#", ""
    )
    assert len(header.replace("\xa0", " ")) >= PLOT_WIDTH


def test_numbers_and_p_values_are_formatted():
    assert [format_signed(value) for value in (0.0124, -0.5, -1e-9, None)] == [
        "+0.012", "\N{MINUS SIGN}0.500", "0.000", "\N{EN DASH}",
    ]  # fmt: skip
    assert [format_p_value(value) for value in (1.0, 0.0499, 0.00049975, None)] == [
        "1.00", "0.050", "0.0005", "\N{EN DASH}",
    ]  # fmt: skip
