"""A comparison as tables on the terminal."""

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from multi_abnormality.tools.compare.formatting import (
    MINUS,
    RANKED_BY,
    TITLES,
    Comparison,
    Scores,
    format_interval,
    format_p_value,
    format_score,
    format_signed,
    interval_title,
    ranked_findings,
    revision_names,
    significant_sign,
    verdict,
)

PLAIN_WIDTH = 100  # columns where there is no terminal


def print_tables(comparison: Comparison) -> None:
    """Print the scores over all findings, each finding's AUROC, and the verdict."""
    output = Console(file=sys.stdout, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    counts = comparison["counts"]
    output.print(Text(revision_names(comparison)))
    output.print(f"{counts['scans']} scans of {counts['patients']} patients, scored by both\n")
    output.print(_macro_table(comparison), "")
    output.print(_finding_table(comparison), "")
    output.print(Text("\n".join(verdict(comparison))))


def _macro_table(comparison: Comparison) -> Table:
    table = _table("All findings", "", comparison, ["p"])
    table.columns[0].min_width = 30
    for measure, title in TITLES.items():
        _add(table, title, "", comparison["macro"][measure], comparison)
    return table


def _finding_table(comparison: Comparison) -> Table:
    table = _table(f"{TITLES[RANKED_BY]} by finding", "Positives", comparison, ["p", "q"])
    for finding in ranked_findings(comparison):
        positives = str(comparison["counts"]["positives"][finding])
        _add(table, finding, positives, comparison["per_pathology"][finding][RANKED_BY], comparison)
    return table


def _table(title: str, count: str, comparison: Comparison, tests: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column(title)  # wraps on a narrow terminal, so that numbers do not
    for header in (count, "A", "B", f"B {MINUS} A", interval_title(comparison), *tests):
        table.add_column(header, justify="right", no_wrap=True)
    return table


def _add(table: Table, name: str, count: str, scores: Scores, comparison: Comparison) -> None:
    table.add_row(
        Text(name),
        count,
        format_score(scores["a"]),
        format_score(scores["b"]),
        format_signed(scores["difference"]),
        format_interval(scores["interval"]),
        *(format_p_value(scores[test]) for test in ("p", "q") if test in scores),
        style="bold" if significant_sign(scores, comparison) else "",
    )
