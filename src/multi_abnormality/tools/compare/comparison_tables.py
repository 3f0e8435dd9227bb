"""A comparison as tables on the terminal, and its verdict in words."""

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from multi_abnormality.evaluation.metric_registry import METRICS
from multi_abnormality.tools.compare.revisions import Revision
from multi_abnormality.utils.errors import count_scans

Comparison = dict[str, Any]  # returned by comparison.compare_revisions
Scores = dict[str, Any]  # one measure of both models, as paired_tests.compare_models returns it

TITLES = {name: metric.title for name, metric in METRICS.items()} | {"crg": "CRG"}
RANKED_BY = "auroc"  # does not depend on a threshold
UNDEFINED = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
PLAIN_WIDTH = 100  # columns without a terminal


def print_tables(comparison: Comparison) -> None:
    """Print the scores over all findings, each finding's AUROC, and the verdict."""
    console = table_console()
    console.print(Text(describe_revisions(comparison)))
    console.print(describe_scans(comparison) + "\n")
    title = f"{TITLES[RANKED_BY]} by finding"
    console.print(_table(("All findings", "", "p"), macro_rows(comparison), comparison), "")
    headers = (title, "Positives", "p", "q")
    console.print(_table(headers, finding_rows(comparison), comparison), "")
    console.print(Text("\n".join(verdict(comparison))))


def table_console(plain_width: int | None = PLAIN_WIDTH) -> Console:
    """Console on standard output; without a terminal, it has `plain_width` columns."""
    width = None if sys.stdout.isatty() else plain_width
    return Console(file=sys.stdout, width=width, highlight=False)


def new_table() -> Table:
    """Table of text without lines."""
    return Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")


def describe_revisions(comparison: Comparison) -> str:
    """Return which revisions A and B are."""
    revisions = comparison["revisions"].items()
    return ", ".join(f"{letter.upper()} is {Revision(**one)}" for letter, one in revisions)


def describe_scans(comparison: Comparison) -> str:
    """Return how many scans and patients were compared."""
    counts = comparison["counts"]
    return f"{count_scans(counts['scans'], counts['patients'])}, scored by both"


def describe_comparison(comparison: Comparison) -> dict[str, Any]:
    """Return what the report shows of a comparison."""
    first, second = (str(Revision(**one)) for one in comparison["revisions"].values())
    overall = _describe_row(TITLES[RANKED_BY], "", comparison["macro"][RANKED_BY], comparison)
    return {
        "first": first,
        "second": second,
        "scans": comparison["counts"]["scans"],
        "described_scans": describe_scans(comparison),
        "permutations": comparison["settings"]["n_bootstrap"],
        "alpha": f"{alpha(comparison):.2g}",
        "same_predictions": comparison["same_predictions"],
        "overall": overall,
        "rows": finding_rows(comparison),
        "parameters": comparison.get("parameters"),
    }


def macro_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the text of a row per measure over all findings."""
    return [
        _describe_row(title, "", comparison["macro"][measure], comparison)
        for measure, title in TITLES.items()
    ]


def finding_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the text of a row per finding, by decreasing difference."""
    positives = comparison["counts"]["positives"]
    return [
        _describe_row(
            finding,
            str(positives[finding]),
            comparison["per_pathology"][finding][RANKED_BY],
            comparison,
        )
        for finding in ranked_findings(comparison)
    ]


def _describe_row(name: str, count: str, scores: Scores, comparison: Comparison) -> dict[str, Any]:
    """Return the text of a row, the scores themselves, and the sign of a significant difference."""
    return {
        "name": name,
        "count": count,
        "a": format_score(scores["a"]),
        "b": format_score(scores["b"]),
        "change": format_signed(scores["difference"]),
        "span": format_interval(scores["interval"]),
        "p": format_p_value(scores["p"]),
        "q": format_p_value(scores.get("q")),
        "sign": significant_sign(scores, comparison),
        "scores": scores,
    }


def _table(headers: Sequence[str], rows: Sequence[dict[str, Any]], comparison: Comparison) -> Table:
    """Table of rows; `headers` are those of name and count, and the tests."""
    title, count, *tests = headers
    table = new_table()
    table.add_column(title, min_width=30 if not count else None)  # wraps, so that numbers do not
    interval = f"{100 * comparison['settings']['confidence']:g} % interval"
    for header in (count, "A", "B", f"B {MINUS} A", interval, *tests):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        values = (row[key] for key in ("count", "a", "b", "change", "span", *tests))
        table.add_row(Text(row["name"]), *values, style="bold" if row["sign"] else "")
    return table


def verdict(comparison: Comparison) -> list[str]:
    """Summarize the comparison by AUROC: one sentence on the macro mean, one on the findings."""
    if comparison["same_predictions"]:
        return ["A and B predict the same, to the last bit."]
    macro = comparison["macro"][RANKED_BY]
    if macro["p"] is None:
        return ["AUROC is undefined: no finding has both positive and negative scans."]
    numbers = f"macro AUROC {format_signed(macro['difference'])}, p = {format_p_value(macro['p'])}"
    overall = {
        1: f"B is better than A: {numbers}.",
        -1: f"B is worse than A: {numbers}.",
        0: f"No difference between A and B is shown: {numbers}.",
    }
    better, worse = (
        ", ".join(
            finding
            for finding in ranked_findings(comparison)
            if significant_sign(comparison["per_pathology"][finding][RANKED_BY], comparison) == sign
        )
        for sign in (1, -1)
    )
    return [
        overall[significant_sign(macro, comparison)],
        f"By finding, at a false discovery rate of {100 * alpha(comparison):.0f} %: B is better at "
        f"{better or 'none'}, worse at {worse or 'none'}.",
    ]


def significant_sign(scores: Scores, comparison: Comparison) -> int:
    """Sign of a significant difference by q, else by p: 1 if B is better, -1 if worse, else 0."""
    test = scores.get("q", scores["p"])
    if test is None or test > alpha(comparison):
        return 0
    return 1 if scores["difference"] > 0 else -1


def ranked_findings(comparison: Comparison) -> list[str]:
    """Findings by decreasing difference, those without one last."""

    def sort_key(finding: str) -> float:
        difference = comparison["per_pathology"][finding][RANKED_BY]["difference"]
        return float("inf") if difference is None else -difference

    return sorted(comparison["per_pathology"], key=sort_key)


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


def alpha(comparison: Comparison) -> float:
    """Return the significance level."""
    return 1 - float(comparison["settings"]["confidence"])
