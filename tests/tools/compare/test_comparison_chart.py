"""Picture of a comparison."""

from xml.etree import ElementTree

import numpy as np
import pytest

from compared_models import comparison_of
from multi_abnormality.tools.compare.comparison_chart import COLOURS, draw_svg
from multi_abnormality.tools.compare.comparison_tables import MINUS
from report_arguments import NAMES

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    """Return all text, the parts of the tree that a browser would load or run being absent."""
    tree = ElementTree.fromstring(svg)
    assert {element.tag.removeprefix(SVG) for element in tree.iter()} <= {
        "svg", "g", "path", "text", "rect", "line", "defs", "clipPath", "tspan", "title", "style",
    }  # fmt: skip
    assert "url(" not in svg.replace("url(#", "")
    return [text for text in tree.itertext() if text.strip()]


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(2, size=(80, 2))


def test_a_difference_is_highlighted_and_explained(labels):
    """AUROC 0 against AUROC 1: the difference is 1, which the axis spans."""
    svg = draw_svg(comparison_of(labels, 1.0 - labels, 1.0 * labels))
    shown = texts(svg)
    assert shown.count("+1.000") >= 3  # of two findings and the mean
    assert {"+1", f"{MINUS}1", "Emphysema", "AUROC by finding", "Positives", "q"} <= set(shown)
    assert any("A coloured row and triangle, up if B is better: p" in text for text in shown)
    assert COLOURS[1] in svg
    assert COLOURS[-1] not in svg
    assert svg == draw_svg(comparison_of(labels, 1.0 - labels, 1.0 * labels))


def test_undefined_scores_are_dashes():
    guess = np.random.default_rng(1).random((80, 2))
    shown = texts(draw_svg(comparison_of(np.zeros((80, 2), int), guess, guess[::-1])))
    assert "\N{EN DASH}" in shown
    assert "AUROC is undefined: no finding has both positive and negative scans." in shown


def test_names_stay_text(labels):
    names = NAMES[:2], NAMES[2:4], NAMES[4:6]
    for pair in names:
        guess = np.random.default_rng(1).random((80, 2))
        assert set(pair) <= set(texts(draw_svg(comparison_of(labels, guess, guess[::-1], pair))))
