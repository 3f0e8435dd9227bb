"""A comparison as tables: on the terminal, and with a plot of the intervals as an SVG."""

import io
import re
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
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
    ranked_findings,
    revision_names,
    significant_sign,
    verdict,
)

PLAIN_WIDTH, SVG_WIDTH = 100, 132  # columns without a terminal, and with a plot
PLOT_WIDTH = 31  # columns of the plot, an odd number
MIN_REACH = 0.01  # smallest half of the plot's axis
COLOURS = {1: "bold green", -1: "bold red", 0: ""}  # of the plot, by the sign of a difference


def print_tables(comparison: Comparison) -> None:
    """Print the scores over all findings, each finding's AUROC, and the verdict."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    _print(comparison, Console(file=sys.stdout, width=width, highlight=False))


def draw_svg(comparison: Comparison) -> str:
    """Draw the tables with a plot of the differences and their intervals.

    Equal numbers give equal bytes, and nothing is loaded from the network.
    """
    from rich._export_format import CONSOLE_SVG_FORMAT

    console = Console(file=io.StringIO(), record=True, width=SVG_WIDTH, highlight=False)
    _print(comparison, console, _reach(comparison))
    code_format = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return console.export_svg(
        title="Comparison", theme=DEFAULT_TERMINAL_THEME, code_format=code_format
    )


def _print(comparison: Comparison, console: Console, reach: float = 0) -> None:
    """Print to a console, with a plot if the axis has a reach."""
    counts = comparison["counts"]
    console.print(Text(revision_names(comparison)))
    console.print(f"{counts['scans']} scans of {counts['patients']} patients, scored by both\n")
    macro = [(title, "", comparison["macro"][measure]) for measure, title in TITLES.items()]
    findings = [
        (
            finding,
            str(counts["positives"][finding]),
            comparison["per_pathology"][finding][RANKED_BY],
        )
        for finding in ranked_findings(comparison)
    ]
    title = f"{TITLES[RANKED_BY]} by finding"
    console.print(_table(("All findings", "", "p"), macro, comparison, reach), "")
    console.print(_table((title, "Positives", "p", "q"), findings, comparison, reach), "")
    console.print(Text("\n".join(verdict(comparison))))


def _table(
    headers: Sequence[str],
    rows: Sequence[tuple[str, str, Scores]],
    comparison: Comparison,
    reach: float,
) -> Table:
    """Table with a row per name, count and scores; `headers` are the first two and the tests."""
    title, count, *tests = headers
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column(title, min_width=30 if not count else None)  # wraps, so that numbers do not
    interval = f"{100 * comparison['settings']['confidence']:g} % interval"
    for header in (count, "A", "B", f"B {MINUS} A", interval, *tests):
        table.add_column(header, justify="right", no_wrap=True)
    if reach:
        table.add_column(_axis(reach), no_wrap=True)
    for name, number, scores in rows:
        sign = significant_sign(scores, comparison)
        values = (
            format_score(scores["a"]),
            format_score(scores["b"]),
            format_signed(scores["difference"]),
            format_interval(scores["interval"]),
            *(format_p_value(scores[test]) for test in tests),
        )
        plot = [Text(_bar(scores, reach), COLOURS[sign])] if reach else []
        table.add_row(Text(name), number, *values, *plot, style="bold" if sign else "")
    return table


def _reach(comparison: Comparison) -> float:
    """Half of an axis around zero that all differences and intervals fit on."""
    shown = [*comparison["macro"].values()]
    shown += [scores[RANKED_BY] for scores in comparison["per_pathology"].values()]
    ends = [abs(end) for scores in shown for end in (scores["interval"] or {}).values()]
    ends += [abs(scores["difference"] or 0) for scores in shown]
    return float(max(MIN_REACH, *ends))


def _axis(reach: float) -> str:
    """Both ends of the axis, above it."""
    low, high = format_signed(-reach), format_signed(reach)
    return f"{low}{'0':^{PLOT_WIDTH - len(low) - len(high)}}{high}"


def _bar(scores: Scores, reach: float) -> str:
    """The interval as a line, the difference as a dot."""
    cells = [" "] * PLOT_WIDTH
    cells[PLOT_WIDTH // 2] = "│"

    def cell(value: float) -> int:
        return round((value / reach + 1) / 2 * (PLOT_WIDTH - 1))

    if interval := scores["interval"]:
        for index in range(cell(interval["low"]), cell(interval["high"]) + 1):
            cells[index] = "─"
    if scores["difference"] is not None:
        cells[cell(scores["difference"])] = "●"
    return "".join(cells)
