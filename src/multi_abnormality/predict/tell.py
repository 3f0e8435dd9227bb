"""Predictions as people and programs read them."""

import csv
import io
import json
import re
import sys
from collections.abc import Sequence

from multi_abnormality.console import can_show, printable
from multi_abnormality.evaluation import THRESHOLD
from multi_abnormality.evaluation.predictions import SUBMISSION_NAME

BAR_WIDTH = 30  # characters

# Spreadsheets run a cell that begins so as a formula (OWASP, "CSV Injection"), also in full width.
_FORMULA = re.compile(r"\s*'*[=+\-@\uff1d\uff0b\uff0d\uff20]")

Row = tuple[str, dict[str, float]]  # a scan's name, probability of each finding


def as_json(rows: Sequence[Row]) -> str:
    """The challenge's form."""
    listed = [
        {"input_image_name": name, "probabilities": probabilities} for name, probabilities in rows
    ]
    return json.dumps({"name": SUBMISSION_NAME, "predictions": listed}, indent=2) + "\n"


def as_csv(rows: Sequence[Row], findings: Sequence[str]) -> str:
    """A row a scan, under the label tables' header.

    A name that a spreadsheet would run as a formula gets an apostrophe before it. Control
    characters in names are escaped.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(["VolumeName", *findings])
    for name, probabilities in rows:
        # Where a spreadsheet separates cells by semicolons, one inside a name would begin a cell.
        to = quoting if ";" in name else writer
        to.writerow([_without_formula(printable(name)), *probabilities.values()])
    return text.getvalue()


def _without_formula(name: str) -> str:
    return f"'{name}" if _FORMULA.match(name) else name


def print_tables(rows: Sequence[Row]) -> None:
    """A table a scan, the likeliest finding first, those of THRESHOLD and more marked."""
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
        table.add_column(no_wrap=True)
        for finding, value in sorted(probabilities.items(), key=lambda item: -item[1]):
            positive = value >= THRESHOLD
            table.add_row(
                Text(f"{mark if positive else ' '} {finding}"),
                f"{value:.3f}",
                block * round(value * BAR_WIDTH),
                style="bold red" if positive else "",
            )
        screen.print(table, end="\n\n")
