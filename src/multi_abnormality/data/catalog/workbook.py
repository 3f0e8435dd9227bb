"""Strict reading of a sheet of an .xlsx workbook as text."""

import logging
import warnings
import zipfile
from collections.abc import Callable
from datetime import date, time, timedelta
from pathlib import Path
from typing import Any

from multi_abnormality.utils.errors import InputError, first_few
from multi_abnormality.utils.strict_csv import (
    MAX_BYTES,
    MAX_COLUMNS,
    WORKBOOK,
    Table,
    TableName,
    read_bytes,
    truncate,
)

log = logging.getLogger(__name__)

MAX_UNPACKED = 4 * MAX_BYTES
_EXACT = 10**15  # a spreadsheet rounds whole numbers from here on
_FORMULA = "is a formula; replace it by its value (copy the column, and paste the values only)"
_DATE = "is a date or time; format the column as text, and write again what it should be"
_MERGED = "is merged with other cells; unmerge them, and fill in each"


def read_sheet(path: Path, sheet: str | None, fix: str, is_read: Callable[[str], bool]) -> Table:
    """Read a sheet whose first row that is not empty is the header.

    A number is read as a spreadsheet shows it without format: 1 and 1.0 as 1. Formulas are refused,
    since their stored values may be missing or out of date.

    Args:
        path: path of the workbook.
        sheet: name of the sheet; None for the first.
        fix: what to do with a damaged file.
        is_read: returns whether a column is read, by its name; others may have any cells.

    Raises:
        InputError: the file is no workbook, or has no such sheet, or no rows below its header.
    """
    cells = _open(path, sheet, fix)
    name = TableName(path, cells.title)
    rows = [(row[0].row, row) for row in cells.iter_rows()] if cells.max_row else []
    filled = [(number, row) for number, row in rows if any(_text(cell).strip() for cell in row)]
    if not filled:
        raise InputError(f"{name}: is empty; {fix}")
    (first, header), *below = filled
    if not below:
        raise InputError(f"{name}: has no rows below its header; {fix}")
    name = TableName(path, cells.title, first)
    titles = [_text(cell) for cell in header]
    return Table(
        titles,
        [[_text(cell) for cell in row] for _, row in below],
        [number for number, _ in below],
        _faults(cells, titles, filled, is_read, name),
        name,
    )


def _open(path: Path, sheet: str | None, fix: str) -> Any:
    """Return a worksheet of openpyxl."""
    content = read_bytes(path, fix)
    if content.startswith(b"\xd0\xcf\x11\xe0"):
        raise InputError(
            f"{path}: is an .xls workbook, or has a password; save it as {WORKBOOK} without one"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(one.file_size for one in archive.infolist())
        if unpacked > MAX_UNPACKED:
            raise InputError(
                f"{path}: has {unpacked:,} bytes when unpacked, more than the {MAX_UNPACKED:,} of "
                "any table of labels; check that it is the right file"
            )
        from openpyxl import load_workbook  # takes a quarter of a second

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what would be lost by saving
            book = load_workbook(path, keep_links=False)
    except InputError:
        raise
    except Exception as error:  # openpyxl raises whatever its parts do
        raise InputError(
            f"{path}: is not a whole {WORKBOOK} workbook ({type(error).__name__}: {error}); {fix}"
        ) from error
    names = [one.title for one in book.worksheets]
    if not names:
        raise InputError(f"{path}: has no sheet of cells; {fix}")
    if sheet is not None and sheet not in names:
        raise InputError(
            f"{path}: has no sheet {sheet!r}; set data.sheet in params.yaml to one of "
            f"{first_few([*map(repr, names)], 20)}"
        )
    if sheet is None and names[1:]:
        log.warning(
            "%s: has %d sheets, of which the first, %r, is read; data.sheet in params.yaml names "
            "another", path, len(names), names[0],
        )  # fmt: skip
    found = book[names[0] if sheet is None else sheet]
    if found.max_column > MAX_COLUMNS:
        raise InputError(
            f"{TableName(path, found.title)}: has {found.max_column:,} columns, more than "
            f"{MAX_COLUMNS:,}; check that it is the right file, with a row for each scan"
        )
    return found


def _text(cell: Any) -> str:
    """Return a cell's value as text; formulas and dates, which are errors, as some text."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < _EXACT
        return str(int(value)) if whole else repr(value).upper()
    return str(value)


def _faults(
    cells: Any,
    titles: list[str],
    filled: list[tuple[int, tuple[Any, ...]]],
    is_read: Callable[[str], bool],
    name: TableName,
) -> list[str]:
    """Return errors for cells without a certain value, in the columns that are read."""
    from openpyxl.cell.cell import MergedCell

    first_merged = {(area.min_row, area.min_col) for area in cells.merged_cells.ranges}
    errors = []
    for index, title in enumerate(titles):
        if not is_read(title):
            continue
        lines_of: dict[str, list[int]] = {}
        for number, row in filled:
            cell = row[index]
            if isinstance(cell, MergedCell) or (number, cell.column) in first_merged:
                lines_of.setdefault(_MERGED, []).append(number)
            elif cell.data_type == "f":
                lines_of.setdefault(_FORMULA, []).append(number)
            elif isinstance(cell.value, date | time | timedelta):
                lines_of.setdefault(_DATE, []).append(number)
        errors += [
            f"{name.at(lines)}, column {title!r}: {problem}" for problem, lines in lines_of.items()
        ]
    return truncate(errors)
