"""Strict reading of a sheet of an .xlsx workbook as text."""

import logging
import warnings
import zipfile
from collections.abc import Callable
from datetime import date, time, timedelta
from decimal import Decimal
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
_EXACT = 10**15  # Excel makes 0 of all digits after the 15th
_EXACT_DOUBLE = 2**53  # from here on, others round whole numbers, such as LibreOffice
UNCERTAIN = "\x1auncertain"  # text of a cell without a certain value, which no table has
_FORMULA = "is a formula; replace it by its value (copy the column, and paste the values only)"
_DATE = "is a date or time; format the column as text, and write again what it should be"
_MERGED = "is merged with other cells; unmerge them, and fill in each"


def read_sheet(path: Path, sheet: str | None, fix: str, is_read: Callable[[str], bool]) -> Table:
    """Read a sheet whose first row that is not empty is the header.

    A number is read as a spreadsheet shows it without format: 1 and 1.0 as 1; one that it may have
    rounded with 15 digits. Formulas are refused, since their stored values may be missing or out of
    date; a refused cell is UNCERTAIN.

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
    problems = _problems(cells, titles, filled, is_read)
    errors = [
        f"{name.at(lines)}, column {titles[index]!r}: {problem}"
        for (index, problem), lines in problems.items()
    ]
    uncertain = {(line, index) for (index, _), lines in problems.items() for line in lines}
    texts = [
        [
            UNCERTAIN if (number, index) in uncertain else _text(cell)
            for index, cell in enumerate(row)
        ]
        for number, row in below
    ]
    return Table(titles, texts, [number for number, _ in below], truncate(errors), name)


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
    if sheet is None and book.worksheets[0].sheet_state != "visible":
        raise InputError(
            f"{path}: its first sheet, {names[0]!r}, is hidden; set data.sheet in params.yaml to "
            f"the one to read, of {first_few([*map(repr, names)], 20)}"
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
    """Return a cell's value as text."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float) and _may_be_rounded(value):
        return f"{Decimal(value):.14E}"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value).upper()
    return str(value)


def _may_be_rounded(value: float) -> bool:
    return abs(value) >= _EXACT and (value % 10 == 0 or abs(value) >= _EXACT_DOUBLE)


def _problems(
    cells: Any,
    titles: list[str],
    filled: list[tuple[int, tuple[Any, ...]]],
    is_read: Callable[[str], bool],
) -> dict[tuple[int, str], list[int]]:
    """Return the rows of cells without a certain value, by column and problem.

    Only columns that are read are checked.
    """
    from openpyxl.cell.cell import MergedCell

    first_merged = {(area.min_row, area.min_col) for area in cells.merged_cells.ranges}
    rows_of: dict[tuple[int, str], list[int]] = {}
    for index, title in enumerate(titles):
        for number, row in filled if is_read(title) else ():
            cell = row[index]
            if isinstance(cell, MergedCell) or (number, cell.column) in first_merged:
                rows_of.setdefault((index, _MERGED), []).append(number)
            elif cell.data_type == "f":
                rows_of.setdefault((index, _FORMULA), []).append(number)
            elif isinstance(cell.value, date | time | timedelta):
                rows_of.setdefault((index, _DATE), []).append(number)
    return rows_of
