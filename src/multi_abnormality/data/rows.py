"""CSV files as rows of text that know their lines."""

import csv
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from multi_abnormality.errors import InputError

MOST_FAULTS = 5  # of one kind that are shown
_END = "end of the table"


def capped(faults: Sequence[str]) -> list[str]:
    """The first few faults of one kind, then how many more there are."""
    more = len(faults) - MOST_FAULTS
    return [*faults[:MOST_FAULTS], *([f"... and {more} more like it"] if more > 0 else [])]


def told_lines(numbers: Sequence[int]) -> str:
    """Lines of a file in words, the first few of them."""
    more = len(numbers) - MOST_FAULTS
    told = ", ".join(map(str, numbers[:MOST_FAULTS])) + (f" and {more} more" if more > 0 else "")
    return f"line {told}" if len(numbers) == 1 else f"lines {told}"


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
            lines_and_end = chain(file, [_END])
            reader = csv.reader(lines_and_end, skipinitialspace=True, delimiter=delimiter)
            *numbered, (_, last) = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error}); {mend}") from None
    if last != [_END]:  # the reader takes all that follows for one cell, and says nothing
        begin = numbered[-1][0] + 1 if numbered else 1
        raise InputError(f"{path}, line {begin}: a quote opens and is never closed; close it")
    if len(numbered) < 2:
        raise InputError(f"{path}: holds no labels; write a row for each scan below its header")
    lines, rows = zip(*numbered, strict=True)
    return rows[0], list(rows[1:]), list(lines[1:])
