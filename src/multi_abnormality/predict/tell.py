"""Predictions as people and programs read them."""

import csv
import io
import re
import sys
from collections.abc import Mapping, Sequence

from multi_abnormality.console import can_show, printable

BAR_WIDTH = 10  # characters: a table then fits 80 columns

# Spreadsheets run a cell that begins so as a formula (OWASP, "CSV Injection"), also in full width.
_FORMULA = re.compile(r"\s*'*[=+\-@\uff1d\uff0b\uff0d\uff20]")

Row = tuple[str, dict[str, float]]  # a scan's name, probability of each finding


def as_csv(rows: Sequence[Row], thresholds: Mapping[str, float]) -> str:
    """Format one row per scan: three columns for each finding.

    The probability's column has the finding's name, as in the label tables; its threshold and
    whether it is positive (1 or 0) follow.

    A name that a spreadsheet would run as a formula gets an apostrophe before it. Control
    characters in names are escaped.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(
        ["VolumeName"]
        + [f"{one}{column}" for one in thresholds for column in ("", " (threshold)", " (positive)")]
    )
    for name, probabilities in rows:
        cells = [
            cell
            for one, value in probabilities.items()
            for cell in (value, thresholds[one], int(value >= thresholds[one]))
        ]
        # Where a spreadsheet separates cells by semicolons, one inside a name would begin a cell.
        to = quoting if ";" in name else writer
        to.writerow([_without_formula(printable(name)), *cells])
    return text.getvalue()


def _without_formula(name: str) -> str:
    return f"'{name}" if _FORMULA.match(name) else name


def print_tables(rows: Sequence[Row], thresholds: Mapping[str, float]) -> None:
    """Print one table per scan, the most probable finding first."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    screen = Console()
    mark, block = "●█" if can_show("●█", sys.stdout) else "*#"
    for name, probabilities in rows:
        table = Table(title=Text(printable(name)), title_justify="left", box=None, pad_edge=False)
        table.collapse_padding = True  # CT-RATE's longest finding then fits 80 columns
        table.add_column("Finding", no_wrap=True)
        table.add_column("Probability", justify="right", no_wrap=True)
        table.add_column("Threshold", justify="right", no_wrap=True)
        table.add_column("Positive", no_wrap=True)
        table.add_column(no_wrap=True)
        for finding, value in sorted(probabilities.items(), key=lambda item: -item[1]):
            positive = value >= thresholds[finding]
            table.add_row(
                Text(f"{mark if positive else ' '} {finding}"),
                f"{value:.3f}",
                f"{thresholds[finding]:.3f}",
                "yes" if positive else "no",
                block * round(value * BAR_WIDTH),
                style="bold red" if positive else "",
            )
        screen.print(table, end="\n\n")
