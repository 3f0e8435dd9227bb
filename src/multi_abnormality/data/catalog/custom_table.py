"""Strict reader of custom tables: patient, split and labels of each scan."""

import re
import unicodedata
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from multi_abnormality.config.schema import Columns, Data
from multi_abnormality.data.catalog.catalog import GROUPS
from multi_abnormality.data.catalog.identifier_spelling import (
    find_similar,
    has_invisible,
    is_rounded,
    quote,
)
from multi_abnormality.data.catalog.text_table import (
    CellCheck,
    cell_errors,
    check_label,
    read_text_table,
)
from multi_abnormality.data.catalog.volume_id import VAL
from multi_abnormality.data.catalog.workbook import UNCERTAIN
from multi_abnormality.utils.errors import first_few
from multi_abnormality.utils.strict_csv import TableName, cell_value

DELIMITERS = ",;\t"
_NO_PATIENT = {  # common placeholders for an empty cell
    *("nan", "nat", "na", "n/a", "n.a.", "#n/a", "<na>", "none", "null", "-", "?", "unknown"),
    *("#value!", "#ref!", "#name?", "#div/0!", "#null!", "#num!"),
}
_CHECK = "check that it is the table that data.table in params.yaml should name"
_MAX_LISTED = 20  # columns that an error lists
# For each group column of the processed set, the field of data.columns that names its source.
GROUP_COLUMNS = {
    "Manufacturer": "manufacturer",
    "ConvolutionKernel": "kernel",
    "PatientSex": "sex",
    "PatientAge": "age",
}
_AGE = re.compile(r"(\d{1,3})(?:\.\d+)?Y?", re.ASCII)
_MAX_AGE = 130  # years
_MISSING_COLUMN_HINTS = {
    "patient": "{none} if each scan is of another patient",
    "split": "{none} to have the test split drawn",
    "findings": "take it out there",
}


@dataclass(frozen=True)
class CustomTable:
    """Content of a custom table.

    Attributes:
        rows: table indexed by the line in the file, with the scan cell as written, patient_id,
            split ("" for a missing one) and the findings as 0, 1 or NaN, where the table has them,
            and GROUPS. If there are errors, unreadable cells have an arbitrary value.
        unread: columns that params.yaml does not name.
        errors: what is wrong.
        name: name of the table in errors.
    """

    rows: pd.DataFrame
    unread: list[str]
    errors: list[str]
    name: TableName


def read_custom_table(
    path: Path, settings: Data, part: str | None = None, by_options: bool = False
) -> CustomTable:
    """Read a table with one row per scan: a sheet of an .xlsx file, or a CSV file.

    Cells of a CSV file are separated by commas, semicolons or tabs.

    Args:
        path: path of the table.
        settings: data section of params.yaml.
        part: a further column, whose cells are kept as text under "part", where the table has it.
        by_options: whether errors name options `--column` in place of keys of params.yaml.
    """
    wanted = _wanted(settings)
    needed = wanted if part is None else {*wanted, part}
    table, errors, name = read_text_table(path, _CHECK, DELIMITERS, _clean, needed, settings.sheet)
    if table.columns.empty:
        return CustomTable(table, [], errors, name)
    header = [*table.columns]
    errors += [
        f"{name.header}: {message}" for message in _header_errors(header, wanted, by_options)
    ]
    parts = table[[part]].map(_clean) if part in header else None
    table = table[[column for column in header if column in wanted]].map(_clean)
    columns = settings.columns
    check_finding = _check_finding(settings)
    errors += cell_errors(
        table,
        [
            (columns.scan, _check_scan),
            (columns.patient, _check_patient),
            (columns.split, _check_value(_split_by_value(settings), settings, "split_values")),
            (columns.age, _check_age),
            *((finding, check_finding) for finding in settings.names),
        ],
        name,
    )
    unread = [column for column in header if column and column not in wanted]
    rows = _normalize_columns(table.replace(UNCERTAIN, ""), settings)
    if parts is not None:
        rows["part"] = parts[part]
    return CustomTable(rows, unread, errors, name)


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


def _header_errors(header: list[str], wanted: dict[str, str], by_options: bool) -> Iterator[str]:
    unknown = [column for column in header if column not in wanted]
    listed = first_few([*map(repr, header)], _MAX_LISTED)
    for column, key in wanted.items():
        if column in header:
            continue
        similar = find_similar(column, unknown)
        hint = f"is it {quote(similar)}? " if similar else f"there are {listed}. "
        role = key.rpartition(".")[2]
        fix = _MISSING_COLUMN_HINTS.get(role, "name another one there")
        source = f"--column {role}=NAME" if by_options else f"{key} in params.yaml"
        fix = fix.format(none=f"add --column {role}=" if by_options else "set it to null")
        yield f"column {column!r} ({source}) is missing; {hint}Rename it, or {fix}"


def _check_scan(cell: str) -> str | None:
    if not cell:
        return "is empty; name the scan, or delete the row"
    return _check_id(cell)


def _check_patient(cell: str) -> str | None:
    if not cell:
        return "is empty; enter the patient, or delete the row"
    if cell.casefold() in _NO_PATIENT:
        return "stands for an empty cell; enter the patient, or delete the row"
    return _check_id(cell)


def _check_id(cell: str) -> str | None:
    if is_rounded(cell):
        return (
            "is a number that a spreadsheet may have rounded, as it keeps 15 digits at most; "
            "format the column as text, and enter the ids again"
        )
    return "has invisible characters; delete them" if has_invisible(cell) else None


def _split_by_value(settings: Data) -> dict[str, str]:
    """Return the split of each value of data.split_values; "" for a missing one."""
    values = settings.split_values
    lists = {"train": values.train, VAL: values.val, "test": values.test, "": values.missing}
    return {value: split for split, words in lists.items() for value in words}


def _label_by_value(settings: Data) -> dict[str, float]:
    """Return the label of each value of data.values; NaN for a missing one."""
    values = settings.values
    lists = {1.0: values.positive, 0.0: values.negative, np.nan: values.missing}
    uncertain = {"positive": 1.0, "negative": 0.0, "missing": np.nan}[settings.uncertain]
    of_certain = {value: label for label, words in lists.items() for value in words}
    return of_certain | dict.fromkeys(values.uncertain, uncertain)


def _check_finding(settings: Data) -> CellCheck:
    known = _label_by_value(settings)
    check = _check_value(known, settings, "values")
    if known.keys() != {"0", "1"}:
        return check
    hint = "or add it to a list of data.values in params.yaml"
    return lambda cell: f"{check_label(cell)}, {hint}" if check(cell) else None


def _check_value(known: Container[str], settings: Data, key: str) -> CellCheck:
    """Return a check whose error lists the values that data.`key` names."""
    lists: Mapping[str, tuple[str, ...]] = getattr(settings, key).model_dump()
    listed = "; ".join(
        f"{name}: {first_few([value or 'empty' for value in values])}"
        for name, values in lists.items()
        if values
    )

    def check(cell: str) -> str | None:
        if cell_value(cell) in known:
            return None
        return (
            f"is {'' if cell else 'empty, '}in no list of data.{key} in params.yaml ({listed}); "
            "correct it, or add it to one of them"
        )

    return check


def _check_age(cell: str) -> str | None:
    age = _AGE.fullmatch(cell)
    if not cell or (age and int(age[1]) <= _MAX_AGE):
        return None
    problem = f"is above {_MAX_AGE} years" if age else "is not an age in years"
    return f"{problem}; correct it, or leave the cell empty"


def _normalize_columns(table: pd.DataFrame, settings: Data) -> pd.DataFrame:
    """Return the cells under the processed set's column names."""
    columns = settings.columns
    normalized = pd.DataFrame(index=table.index)
    for name, column in (("scan", columns.scan), ("patient_id", columns.patient)):
        if column in table:
            normalized[name] = table[column]
    if columns.split in table:
        split_of = _split_by_value(settings)
        normalized["split"] = table[columns.split].map(
            lambda cell: split_of.get(cell_value(cell), "")
        )
    for group in GROUPS:
        column = getattr(columns, GROUP_COLUMNS.get(group, ""), None)
        normalized[group] = table.get(column, "")
    normalized["PatientAge"] = [
        f"{match[1]}Y" if (match := _AGE.fullmatch(age)) else "" for age in normalized["PatientAge"]
    ]
    normalized["PatientSex"] = normalized["PatientSex"].str.capitalize()  # m and M are one group
    label_of = _label_by_value(settings)
    for finding in settings.names:
        if finding in table:
            labels = table[finding].map(lambda cell: label_of.get(cell_value(cell), 0.0))
            is_complete = labels.notna().all()
            normalized[finding] = labels.astype("int64") if is_complete else labels.astype(float)
    return normalized
