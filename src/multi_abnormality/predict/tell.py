"""Predictions as people and programs read them."""

import csv
import io
import json
from collections.abc import Sequence

from multi_abnormality.evaluation import THRESHOLD
from multi_abnormality.evaluation.predictions import SUBMISSION_NAME

BAR_WIDTH = 30  # characters

Row = tuple[str, dict[str, float]]  # a scan's name, probability of each finding


def as_json(rows: Sequence[Row]) -> str:
    """The challenge's form."""
    listed = [
        {"input_image_name": name, "probabilities": probabilities} for name, probabilities in rows
    ]
    return json.dumps({"name": SUBMISSION_NAME, "predictions": listed}, indent=2) + "\n"


def as_csv(rows: Sequence[Row], findings: Sequence[str]) -> str:
    """A row a scan, under the label tables' header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["VolumeName", *findings])
    writer.writerows([name, *probabilities.values()] for name, probabilities in rows)
    return text.getvalue()


def print_tables(rows: Sequence[Row]) -> None:
    """A table a scan, the likeliest finding first, those of THRESHOLD and more marked."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    screen = Console()
    for name, probabilities in rows:
        table = Table(title=Text(name), title_justify="left", box=None, pad_edge=False)
        table.collapse_padding = True  # CT-RATE's longest finding then fits 80 columns
        table.add_column("Finding", no_wrap=True)
        table.add_column("Probability", justify="right", no_wrap=True)
        table.add_column(no_wrap=True)
        for finding, value in sorted(probabilities.items(), key=lambda item: -item[1]):
            positive = value >= THRESHOLD
            table.add_row(
                Text(f"{'●' if positive else ' '} {finding}"),
                f"{value:.3f}",
                "█" * round(value * BAR_WIDTH),
                style="bold red" if positive else "",
            )
        screen.print(table, end="\n\n")
