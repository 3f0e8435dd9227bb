"""CSV files as rows of text that know their lines."""

import csv
from collections.abc import Sequence
from pathlib import Path

from multi_abnormality.errors import InputError

MOST_FAULTS = 5  # of one kind that are shown


def capped(faults: Sequence[str]) -> list[str]:
    """The first few faults of one kind, then how many more there are."""
    more = len(faults) - MOST_FAULTS
    return [*faults[:MOST_FAULTS], *([f"... and {more} more like it"] if more > 0 else [])]


def read_rows(
    path: Path, mend: str, delimiter: str = ","
) -> tuple[list[str], list[list[str]], list[int]]:
    """The header, the other rows, and the line in the file that each of them ends on.

    Args:
        path: of the file.
        mend: what to do with one that is no table.
        delimiter: between cells.

    Raises:
        InputError: it is no table, or holds no rows.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True, delimiter=delimiter)
            numbered = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error}); {mend}") from None
    if len(numbered) < 2:
        raise InputError(f"{path}: holds no labels; {mend}")
    lines, rows = zip(*numbered, strict=True)
    return rows[0], list(rows[1:]), list(lines[1:])
