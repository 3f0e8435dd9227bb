"""A comparison in words and numbers: what its tables and its picture share."""

from collections.abc import Sequence
from typing import Any

from multi_abnormality.compare.revisions import Revision

Comparison = dict[str, Any]  # of run.compare
Scores = dict[str, Any]  # one measure of both models, as paired.compare_models has it

TITLES = {
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "accuracy": "Accuracy",
    "crg": "CRG",
}
RANKED_BY = "auroc"  # of the findings' many scores, the one that no cut decides
UNDEFINED = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def verdict(comparison: Comparison) -> list[str]:
    """What the numbers say, by AUROC: one sentence on the whole, one on the findings."""
    if comparison["same_predictions"]:
        return ["A and B predict the same, to the last bit."]
    macro, alpha = comparison["macro"][RANKED_BY], _alpha(comparison)
    if macro["p"] is None:
        return ["AUROC is undefined: no finding has scans with it and scans without it."]
    says = f"macro AUROC {signed(macro['difference'])}, p = {probability(macro['p'])}"
    whole = {
        1: f"B is better than A: {says}.",
        -1: f"B is worse than A: {says}.",
        0: f"No difference between A and B is shown: {says}.",
    }
    found = {
        sign: [
            finding
            for finding in in_order(comparison)
            if direction(comparison["per_pathology"][finding][RANKED_BY], comparison) == sign
        ]
        for sign in (1, -1)
    }
    return [
        whole[direction(macro, comparison)],
        f"By finding, at a false discovery rate of {100 * alpha:.0f} %: B is better at "
        f"{_listed(found[1])}, worse at {_listed(found[-1])}.",
    ]


def direction(scores: Scores, comparison: Comparison) -> int:
    """1 where B is shown to be better, -1 where worse, 0 where neither is: by q, else by p."""
    test = scores.get("q", scores["p"])
    if test is None or test > _alpha(comparison):
        return 0
    return 1 if scores["difference"] > 0 else -1


def in_order(comparison: Comparison) -> list[str]:
    """The findings by falling difference, those without one last."""

    def place(finding: str) -> float:
        difference = comparison["per_pathology"][finding][RANKED_BY]["difference"]
        return float("inf") if difference is None else -difference

    return sorted(comparison["per_pathology"], key=place)


def names(comparison: Comparison) -> str:
    """Such as "A is main (1a2b3c4), B is workspace"."""
    return ", ".join(
        f"{letter.upper()} is {Revision(**one)}" for letter, one in comparison["revisions"].items()
    )


def number(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """With its sign; none where it rounds to zero."""
    if value is None:
        return UNDEFINED
    text = f"{value:+.3f}".replace("-", MINUS)
    return text[1:] if set(text[1:]) <= set("0.") else text


def span(interval: dict[str, float] | None) -> str:
    if interval is None:
        return UNDEFINED
    return f"{signed(interval['low'])} to {signed(interval['high'])}"


def probability(value: float | None) -> str:
    """Of a p-value: more digits the smaller it is."""
    if value is None:
        return UNDEFINED
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}" if value < 0.001 else f"{value:.3f}"


def confidence(comparison: Comparison) -> str:
    return f"{100 * comparison['settings']['confidence']:g} % interval"


def _alpha(comparison: Comparison) -> float:
    return 1 - float(comparison["settings"]["confidence"])


def _listed(findings: Sequence[str]) -> str:
    return ", ".join(findings) if findings else "none"
