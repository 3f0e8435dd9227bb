"""Output of predictions as tables and CSV."""

import csv
import io
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from multi_abnormality.evaluation.threshold_selection import decide
from multi_abnormality.utils.console import can_show, printable

if TYPE_CHECKING:
    from rich.table import Table

UNDEFINED = "\N{EN DASH}"
NOT_CALIBRATED = "not calibrated"
BAR_WIDTH = 10  # characters; a table then fits 80 columns
MIN_WIDTH = 75  # columns of a terminal below which there are no bars

# Spreadsheets run such a cell as a formula (OWASP, "CSV Injection"), also in full width.
_FORMULA = re.compile(r"\s*'*[=+\-@\uff1d\uff0b\uff0d\uff20]")

Row = tuple[str, dict[str, float]]  # name of a scan, probability by finding


def as_csv(
    rows: Sequence[Row], thresholds: Mapping[str, float], uncalibrated: Collection[str] = ()
) -> str:
    """Format one row per scan, with three columns per finding.

    The column of the probability has the finding's name, as in the label tables; its threshold and
    whether it is positive follow: 1, 0 or, without a decision, nothing.

    A name that a spreadsheet would run as a formula is prefixed with an apostrophe. Control
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
            for finding, positive in decide(probabilities, thresholds, uncalibrated).items()
            for cell in (
                probabilities[finding],
                thresholds[finding],
                "" if positive is None else int(positive),
            )
        ]
        # Unquoted, a semicolon begins a new cell where these separate cells.
        chosen = quoting if ";" in name else writer
        name = printable(name)
        chosen.writerow([f"'{name}" if _FORMULA.match(name) else name, *cells])
    return text.getvalue()


def print_tables(
    rows: Sequence[Row], thresholds: Mapping[str, float], uncalibrated: Collection[str] = ()
) -> None:
    """Print one table per scan, the most probable finding first."""
    from rich.console import Console
    from rich.text import Text

    screen = Console()
    mark, block = "●█" if can_show("●█", sys.stdout) else "*#"
    dash = UNDEFINED if can_show(UNDEFINED, sys.stdout) else "-"
    for name, probabilities in rows:
        table = _empty_table(name)
        decisions = decide(probabilities, thresholds, uncalibrated)
        for finding, value in sorted(probabilities.items(), key=lambda item: -item[1]):
            positive = decisions[finding]
            bar = block * round(value * BAR_WIDTH) if screen.width >= MIN_WIDTH else ""
            table.add_row(
                Text(f"{mark if positive else ' '} {finding}"),
                f"{value:.3f}",
                dash if positive is None else f"{thresholds[finding]:.3f}",
                NOT_CALIBRATED if positive is None else f"{'yes' if positive else 'no':<8} {bar}",
                style="bold red" if positive else "",
            )
        screen.print(table, end="\n\n")


def _empty_table(name: str) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(name)), title_justify="left", box=None, pad_edge=False)
    table.collapse_padding = True  # CT-RATE's longest finding then fits 80 columns
    table.add_column("Finding", overflow="fold")  # narrower on a narrow terminal
    for header in ("Probability", "Threshold"):
        table.add_column(header, justify="right", no_wrap=True, min_width=len(header))
    table.add_column("Positive", no_wrap=True, min_width=len("Positive"))
    return table
