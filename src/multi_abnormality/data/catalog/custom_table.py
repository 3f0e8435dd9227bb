"""Strict reader of custom tables: patient, split and labels of each scan."""

import re
import unicodedata
from collections.abc import Callable, Container, Iterator
from pathlib import Path

import pandas as pd

from multi_abnormality.config.schema_data import Columns, Data
from multi_abnormality.data.catalog.identifier_spelling import (
    find_similar,
    has_invisible,
    is_rounded,
    quote,
)
from multi_abnormality.data.catalog.metadata_table import GROUPS
from multi_abnormality.data.catalog.volume_id import SPLITS
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.strict_csv import format_lines, read_rows, repeated, truncate

DELIMITERS = ",;\t"
_NO_PATIENT = {  # common placeholders for an empty cell
    *("nan", "nat", "na", "n/a", "n.a.", "#n/a", "<na>", "none", "null", "-", "?", "unknown"),
    *("#value!", "#ref!", "#name?", "#div/0!", "#null!", "#num!"),
}
_CHECK = "check that it is the table that data.table in params.yaml should name"
_MAX_LISTED = 20  # columns that an error lists
LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
# For each group column of the processed set, the field of data.columns that names its source.
GROUP_COLUMNS = {
    "Manufacturer": "manufacturer",
    "ConvolutionKernel": "kernel",
    "PatientSex": "sex",
    "PatientAge": "age",
}
_AGE = re.compile(r"(\d{1,3})(?:\.\d+)?Y?")
_MISSING_COLUMN_HINTS = {
    "patient": "set it to null if each scan is of another patient",
    "split": "set it to null to have the test split drawn",
    "findings": "take it out there",
}


def read_custom_table(path: Path, settings: Data) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Read a CSV with one row per scan; cells are separated by commas, semicolons or tabs.

    Returns:
        A table indexed by the line in the file, with the scan cell as written, patient_id, split
        and the findings as 0 or 1, where the table has them, and GROUPS; the columns that
        params.yaml does not name; and the errors. If there are errors, unreadable cells have an
        arbitrary value.
    """
    try:
        read = read_rows(path, _CHECK, DELIMITERS)
    except InputError as error:
        return pd.DataFrame(columns=["scan"]), [], [str(error)]
    header = [_clean(cell) for cell in read.header]
    errors = [f"{path}, line 1: {message}" for message in _header_errors(header, settings)]
    table = pd.DataFrame(read.rows, read.lines, header, dtype=str)
    wanted = _wanted(settings)
    table = table.loc[:, ~table.columns.duplicated()]
    table = table[[column for column in table if column in wanted]].map(_clean)
    errors += read.faults + _cell_errors(table, settings, path)
    unread = [column for column in header if column and column not in wanted]
    return _normalize_columns(table, settings), unread, errors


def _clean(cell: str) -> str:
    """Strip surrounding spaces and normalize to NFC."""
    return unicodedata.normalize("NFC", cell.strip())


def _wanted(settings: Data) -> dict[str, str]:
    """Return the required columns, each with the key of params.yaml that names it."""
    columns = settings.columns
    keys = {
        getattr(columns, name): f"data.columns.{name}"
        for name in Columns.model_fields
        if getattr(columns, name) is not None
    }
    return keys | dict.fromkeys(settings.names, "data.findings")


def _header_errors(header: list[str], settings: Data) -> Iterator[str]:
    wanted = _wanted(settings)
    unknown = [column for column in header if column not in wanted]
    for column in repeated(header):
        if column in wanted:
            yield f"column {column!r} comes more than once; keep one"
    for column, key in wanted.items():
        if column in header:
            continue
        similar = find_similar(column, unknown)
        hint = f"is it {quote(similar)}? " if similar else f"there are {_list_columns(header)}. "
        role = key.rpartition(".")[2]
        fix = _MISSING_COLUMN_HINTS.get(role, "name another one there")
        yield f"column {column!r} ({key} in params.yaml) is missing; {hint}Rename it, or {fix}"


def _list_columns(header: list[str]) -> str:
    more = len(header) - _MAX_LISTED
    shown = ", ".join(map(repr, header[:_MAX_LISTED]))
    return f"{shown} and {more} more" if more > 0 else shown


def _cell_errors(table: pd.DataFrame, settings: Data, path: Path) -> list[str]:
    columns = settings.columns
    checks: list[tuple[str | None, Callable[[str], str | None]]] = [
        (columns.scan, _check_scan),
        (columns.patient, _check_patient),
        (columns.split, _check_split),
        (columns.age, _check_age),
        *((name, _check_label) for name in settings.names),
    ]
    errors = []
    for column, check in checks:
        wrong: dict[str, list[int]] = {}
        for line, cell in table[column].items() if column in table else ():
            if message := check(cell):
                wrong.setdefault(f"{f'{quote(cell)} ' if cell else ''}{message}", []).append(line)
        errors += truncate(
            [
                f"{path}, {format_lines(lines)}, column {column!r}: {message}"
                for message, lines in wrong.items()
            ]
        )
    return errors


def _check_scan(cell: str) -> str | None:
    if not cell:
        return "is empty; name the scan, or delete the row"
    return _check_text(cell)


def _check_patient(cell: str) -> str | None:
    if not cell:
        return "is empty; enter the patient, or delete the row"
    if cell.casefold() in _NO_PATIENT:
        return "stands for an empty cell; enter the patient, or delete the row"
    if is_rounded(cell):
        return (
            "is a number that a spreadsheet has rounded; format the column as text and write the "
            "whole number"
        )
    return _check_text(cell)


def _check_text(cell: str) -> str | None:
    return "has invisible characters; delete them" if has_invisible(cell) else None


def _check_split(cell: str) -> str | None:
    if cell in ("valid", "val"):
        return "is not a split; write test for the scans to score, and train for all others"
    return _check_choice(cell, SPLITS, "train nor test")


def _check_label(cell: str) -> str | None:
    return _check_choice(cell, LABELS, "0 nor 1")


def _check_choice(cell: str, allowed: Container[str], names: str) -> str | None:
    if cell in allowed:
        return None
    return f"is {'' if cell else 'empty, '}neither {names}; use one of them"


def _check_age(cell: str) -> str | None:
    if not cell or _AGE.fullmatch(cell):
        return None
    return "is not an age in years; correct it, or leave the cell empty"


def _normalize_columns(table: pd.DataFrame, settings: Data) -> pd.DataFrame:
    """Return the cells under the processed set's column names."""
    columns = settings.columns
    normalized = pd.DataFrame(index=table.index)
    for name, column in (("scan", columns.scan), ("patient_id", columns.patient),
                         ("split", columns.split)):  # fmt: skip
        if column in table:
            normalized[name] = table[column]
    for group in GROUPS:
        column = getattr(columns, GROUP_COLUMNS.get(group, ""), None)
        normalized[group] = table.get(column, "")
    normalized["PatientAge"] = [
        f"{match[1]}Y" if (match := _AGE.fullmatch(age)) else "" for age in normalized["PatientAge"]
    ]
    normalized["PatientSex"] = normalized["PatientSex"].str.capitalize()  # m and M are one group
    for finding in settings.names:
        if finding in table:
            normalized[finding] = [LABELS.get(cell, 0) for cell in table[finding]]
    return normalized
