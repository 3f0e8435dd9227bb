"""Reading of a dataset's tables as text, and the errors that all of them share."""

from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path

import pandas as pd

from multi_abnormality.data.catalog.identifier_spelling import find_similar, quote
from multi_abnormality.data.catalog.workbook import UNCERTAIN, read_sheet
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.strict_csv import (
    WORKBOOK,
    Table,
    TableName,
    read_rows,
    repeated,
    truncate,
)

LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}

CellCheck = Callable[[str], str | None]  # returns what is wrong with a cell, if anything


def read_text_table(
    path: Path,
    fix: str,
    delimiters: str = ",",
    clean: Callable[[str], str] = str,
    needed: Container[str] | None = None,
    sheet: str | None = None,
) -> tuple[pd.DataFrame, list[str], TableName]:
    """Read a CSV file, or a sheet of a workbook, as text.

    Args:
        path: path of the file; one that ends in .xlsx is a workbook.
        fix: what to do with a damaged file.
        delimiters: characters that may separate cells.
        clean: normalizes names of columns.
        needed: columns that are read, and so must not be repeated; None for all.
        sheet: name of the sheet of a workbook; None for the first.

    Returns:
        A table indexed by the line in the file, or by the row in the sheet, without columns if the
        file cannot be read, and otherwise with the first of those that are repeated; the errors;
        and the table's name in errors.
    """

    def is_read(column: str) -> bool:
        return needed is None or clean(column) in needed

    try:
        if path.suffix.lower() == WORKBOOK:
            read = read_sheet(path, sheet, fix, is_read)
        else:
            read = read_rows(path, fix, delimiters)
    except InputError as error:
        return pd.DataFrame(), [str(error)], TableName(path)
    name, header = read.name, [clean(cell) for cell in read.header]
    if _is_title(read, delimiters):
        message = f"{name.header}: looks like a title or comment; delete the {name.unit}s above "
        return pd.DataFrame(), [f"{message}that of the names of the columns"], name
    if len(header) == 1:
        message = f"{name.header}: has one column; separate the cells by commas, or {fix}"
        return pd.DataFrame(), [message], name
    errors = [
        f"{name.header}: column {column!r} comes more than once; keep one"
        for column in repeated(header)
        if needed is None or column in needed
    ]
    table = pd.DataFrame(read.rows, read.lines, header, dtype=str)
    table = table.loc[:, ~table.columns.duplicated()]
    return table, truncate(errors) + read.faults, name


def _is_title(table: Table, delimiters: str) -> bool:
    """Return whether the first row that is not empty looks unlike names of columns."""
    first, *others = [cell for cell in table.header if cell.strip()]
    if others:
        return first.startswith("#") and not table.rows  # all rows have more cells, or less
    if len(table.header) > 1:  # a table of one column may have empty ones beside it
        return bool(table.faults) or any(cell.strip() for row in table.rows for cell in row[1:])
    is_split = [any(one in cell for one in delimiters) for (cell,) in [[first], *table.rows]]
    return not is_split[0] and (any(is_split) or bool(table.faults))


def missing_column(column: str, others: Sequence[str]) -> str:
    """Return the error for a missing column, with the one that was probably meant."""
    similar = find_similar(column, others)
    return f"column {column!r} is missing; {f'rename {quote(similar)}' if similar else 'add it'}"


def cell_errors(
    table: pd.DataFrame, checks: Iterable[tuple[str | None, CellCheck]], name: TableName
) -> list[str]:
    """Return the errors of all cells; equal ones of a column are one error.

    UNCERTAIN cells have an error already.

    Args:
        table: table indexed by the line in the file.
        checks: pairs of a column, which may be missing, and the check of its cells.
        name: name of the table.
    """
    errors = []
    for column, check in checks:
        if column not in table:
            continue
        cells = table[column][table[column] != UNCERTAIN]
        wrong = {cell: message for cell in cells.unique() if (message := check(cell))}
        lines_of: dict[str, list[int]] = {}
        for line, cell in cells[cells.isin(wrong)].items():
            shown = f"{quote(cell)} " if cell else ""
            lines_of.setdefault(f"{shown}{wrong[cell]}", []).append(line)
        errors += truncate(
            [
                f"{name.at(lines)}, column {column!r}: {message}"
                for message, lines in lines_of.items()
            ]
        )
    return errors


def check_label(cell: str) -> str | None:
    """Return an error if a cell is not one of LABELS."""
    if cell in LABELS:
        return None
    return f"is {'' if cell else 'empty, '}neither 0 nor 1; use one of them"
