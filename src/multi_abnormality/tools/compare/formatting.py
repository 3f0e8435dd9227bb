"""Text and number formatting of a comparison, for its tables."""

from collections.abc import Sequence
from typing import Any

from multi_abnormality.evaluation.metrics import METRICS
from multi_abnormality.tools.compare.revisions import Revision

Comparison = dict[str, Any]  # returned by comparison.compare_revisions
Scores = dict[str, Any]  # one measure of both models, as paired_tests.compare_models returns it

TITLES = {name: metric.title for name, metric in METRICS.items()} | {"crg": "CRG"}
RANKED_BY = "auroc"  # does not depend on a threshold
UNDEFINED = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def verdict(comparison: Comparison) -> list[str]:
    """Summarize the comparison by AUROC: one sentence on the macro mean, one on the findings."""
    if comparison["same_predictions"]:
        return ["A and B predict the same, to the last bit."]
    macro, alpha = comparison["macro"][RANKED_BY], _alpha(comparison)
    if macro["p"] is None:
        return ["AUROC is undefined: no finding has both positive and negative scans."]
    numbers = f"macro AUROC {format_signed(macro['difference'])}, p = {format_p_value(macro['p'])}"
    overall = {
        1: f"B is better than A: {numbers}.",
        -1: f"B is worse than A: {numbers}.",
        0: f"No difference between A and B is shown: {numbers}.",
    }
    found = {
        sign: [
            finding
            for finding in ranked_findings(comparison)
            if significant_sign(comparison["per_pathology"][finding][RANKED_BY], comparison) == sign
        ]
        for sign in (1, -1)
    }
    return [
        overall[significant_sign(macro, comparison)],
        f"By finding, at a false discovery rate of {100 * alpha:.0f} %: B is better at "
        f"{_join(found[1])}, worse at {_join(found[-1])}.",
    ]


def significant_sign(scores: Scores, comparison: Comparison) -> int:
    """Sign of a significant difference by q, else by p: 1 if B is better, -1 if worse, else 0."""
    test = scores.get("q", scores["p"])
    if test is None or test > _alpha(comparison):
        return 0
    return 1 if scores["difference"] > 0 else -1


def ranked_findings(comparison: Comparison) -> list[str]:
    """Findings by decreasing difference, those without one last."""

    def sort_key(finding: str) -> float:
        difference = comparison["per_pathology"][finding][RANKED_BY]["difference"]
        return float("inf") if difference is None else -difference

    return sorted(comparison["per_pathology"], key=sort_key)


def revision_names(comparison: Comparison) -> str:
    """Name both revisions, such as "A is main (1a2b3c4), B is workspace"."""
    return ", ".join(
        f"{letter.upper()} is {Revision(**one)}" for letter, one in comparison["revisions"].items()
    )


def format_score(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.3f}"


def format_signed(value: float | None) -> str:
    """Format with a sign, unless the value rounds to zero."""
    if value is None:
        return UNDEFINED
    text = f"{value:+.3f}".replace("-", MINUS)
    return text[1:] if set(text[1:]) <= set("0.") else text


def format_interval(interval: dict[str, float] | None) -> str:
    if interval is None:
        return UNDEFINED
    return f"{format_signed(interval['low'])} to {format_signed(interval['high'])}"


def format_p_value(value: float | None) -> str:
    """Format a p-value, with more digits the smaller it is."""
    if value is None:
        return UNDEFINED
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}" if value < 0.001 else f"{value:.3f}"


def _alpha(comparison: Comparison) -> float:
    return 1 - float(comparison["settings"]["confidence"])


def _join(findings: Sequence[str]) -> str:
    return ", ".join(findings) if findings else "none"
