"""A comparison as tables on the terminal."""

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from multi_abnormality.compare.words import (
    MINUS,
    RANKED_BY,
    TITLES,
    Comparison,
    Scores,
    confidence,
    direction,
    in_order,
    names,
    number,
    probability,
    signed,
    span,
    verdict,
)

PLAIN_WIDTH = 100  # columns where there is no terminal


def show(comparison: Comparison) -> None:
    """Print all findings' scores, each finding's AUROC, and what follows."""
    screen = Console(file=sys.stdout, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    counts = comparison["counts"]
    screen.print(Text(names(comparison)))
    screen.print(f"{counts['scans']} scans of {counts['patients']} patients, scored by both\n")
    screen.print(_macro_table(comparison), "")
    screen.print(_finding_table(comparison), "")
    screen.print(Text("\n".join(verdict(comparison))))


def _macro_table(comparison: Comparison) -> Table:
    table = _table("All findings", "", comparison, ["p"])
    table.columns[0].min_width = 30
    for measure, title in TITLES.items():
        _add(table, title, "", comparison["macro"][measure], comparison)
    return table


def _finding_table(comparison: Comparison) -> Table:
    table = _table(f"{TITLES[RANKED_BY]} by finding", "Positives", comparison, ["p", "q"])
    for finding in in_order(comparison):
        positives = str(comparison["counts"]["positives"][finding])
        _add(table, finding, positives, comparison["per_pathology"][finding][RANKED_BY], comparison)
    return table


def _table(title: str, count: str, comparison: Comparison, tests: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column(title)  # wrapped where the terminal is narrow, so that numbers are whole
    for header in (count, "A", "B", f"B {MINUS} A", confidence(comparison), *tests):
        table.add_column(header, justify="right", no_wrap=True)
    return table


def _add(table: Table, name: str, count: str, scores: Scores, comparison: Comparison) -> None:
    table.add_row(
        Text(name),
        count,
        number(scores["a"]),
        number(scores["b"]),
        signed(scores["difference"]),
        span(scores["interval"]),
        *(probability(scores[test]) for test in ("p", "q") if test in scores),
        style="bold" if direction(scores, comparison) else "",
    )
