"""Output of predictions as tables and CSV."""

import csv
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence

from multi_abnormality.evaluation.threshold_selection import decide
from multi_abnormality.utils.console import can_show, printable

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
    """Print one table per scan, the most probable finding first; on a terminal in colour.

    Rich would draw it, but takes 50 ms to import, a sixth of the time for a small scan.
    """
    columns = shutil.get_terminal_size().columns
    is_coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    mark, block = "●█" if can_show("●█", sys.stdout) else "*#"
    dash = UNDEFINED if can_show(UNDEFINED, sys.stdout) else "-"
    for name, probabilities in rows:
        decisions = decide(probabilities, thresholds, uncalibrated)
        cells = [("Finding", "Probability", "Threshold", "Positive", False)]
        for finding, value in sorted(probabilities.items(), key=lambda item: -item[1]):
            positive = decisions[finding]
            bar = block * round(value * BAR_WIDTH) if columns >= MIN_WIDTH else ""
            cells.append((
                f"{mark if positive else ' '} {finding}",
                f"{value:.3f}",
                dash if positive is None else f"{thresholds[finding]:.3f}",
                NOT_CALIBRATED if positive is None else f"{'yes' if positive else 'no':<8} {bar}",
                bool(positive),
            ))  # fmt: skip
        ends = [
            f" {chance:>11} {threshold:>9} {decision}".rstrip()
            for _, chance, threshold, decision, _ in cells
        ]
        width = min(max(len(cell[0]) for cell in cells), columns - max(map(len, ends)))
        lines = [printable(name)]
        for (label, *_, is_positive), end in zip(cells, ends, strict=True):
            first, *more = textwrap.wrap(label, max(width, 3), drop_whitespace=False)
            text = "\n".join([f"{first:<{width}}{end}", *more])
            lines.append(f"\x1b[1;31m{text}\x1b[0m" if is_coloured and is_positive else text)
        sys.stdout.write("\n".join(lines) + "\n\n")
