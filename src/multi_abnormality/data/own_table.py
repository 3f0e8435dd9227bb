"""A table of one's own, read strictly: whose each scan is, its split, and what it has."""

import re
import unicodedata
from collections.abc import Callable, Container, Iterator
from pathlib import Path

import pandas as pd

from multi_abnormality.data.metadata_table import GROUPS
from multi_abnormality.data.names import SPLITS
from multi_abnormality.data.rows import capped, format_lines, read_rows, repeated
from multi_abnormality.data.spelling import find_similar, has_invisible, is_rounded, quote
from multi_abnormality.errors import InputError
from multi_abnormality.params_data import Columns, Data

DELIMITERS = ",;\t"
_NO_PATIENT = {  # what programs and people write of empty cells
    *("nan", "nat", "na", "n/a", "n.a.", "#n/a", "<na>", "none", "null", "-", "?", "unknown"),
    *("#value!", "#ref!", "#name?", "#div/0!", "#null!", "#num!"),
}
_CHECK = "check that it is the table that data.table in params.yaml should name"
_MOST_NAMED = 20  # columns that an error lists
LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
# Where a group's column of the processed set comes from.
GROUP_COLUMNS = {
    "Manufacturer": "manufacturer",
    "ConvolutionKernel": "kernel",
    "PatientSex": "sex",
    "PatientAge": "age",
}
_AGE = re.compile(r"(\d{1,3})(?:\.\d+)?Y?")
_LEFT_OUT = {
    "patient": "set it to null if each scan is of another patient",
    "split": "set it to null to have the valid split drawn",
    "findings": "take it out there",
}


def read_own_table(path: Path, settings: Data) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Read a CSV with a row a scan; cells are separated by commas, semicolons or tabs.

    Returns:
        A row a scan, indexed by the line in the file: scan as it stands there, patient_id, split
        and the findings as 0 or 1, where the table has them, and GROUPS; the columns that nothing
        in params.yaml names; and the faults. Where there are faults, cells that could not be read
        have some value.
    """
    try:
        read = read_rows(path, _CHECK, DELIMITERS)
    except InputError as error:
        return pd.DataFrame(columns=["scan"]), [], [str(error)]
    header = [_clean(cell) for cell in read.header]
    faults = [f"{path}, line 1: {fault}" for fault in _header_faults(header, settings)]
    table = pd.DataFrame(read.rows, read.lines, header, dtype=str)
    wanted = _wanted(settings)
    table = table.loc[:, [not again for again in table.columns.duplicated()]]
    table = table[[column for column in table if column in wanted]].map(_clean)
    faults += read.faults + _cell_faults(table, settings, path)
    unread = [column for column in header if column and column not in wanted]
    return _meaning(table, settings), unread, faults


def _clean(cell: str) -> str:
    """Without spaces around it, and letters with accents written the one way of two (NFC)."""
    return unicodedata.normalize("NFC", cell.strip())


def _wanted(settings: Data) -> dict[str, str]:
    """The columns that the table must have, each with the key that names it."""
    columns = settings.columns
    keys = {
        getattr(columns, name): f"data.columns.{name}"
        for name in Columns.model_fields
        if getattr(columns, name) is not None
    }
    return keys | dict.fromkeys(settings.names, "data.findings")


def _header_faults(header: list[str], settings: Data) -> Iterator[str]:
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
        out = _LEFT_OUT.get(role, "name another one there")
        yield f"column {column!r} ({key} in params.yaml) is missing; {hint}Rename it, or {out}"


def _list_columns(header: list[str]) -> str:
    more = len(header) - _MOST_NAMED
    shown = ", ".join(map(repr, header[:_MOST_NAMED]))
    return f"{shown} and {more} more" if more > 0 else shown


def _cell_faults(table: pd.DataFrame, settings: Data, path: Path) -> list[str]:
    columns = settings.columns
    checks: list[tuple[str | None, Callable[[str], str | None]]] = [
        (columns.scan, _scan_fault),
        (columns.patient, _patient_fault),
        (columns.split, _split_fault),
        (columns.age, _age_fault),
        *((name, _label_fault) for name in settings.names),
    ]
    faults = []
    for column, check in checks:
        wrong: dict[str, list[int]] = {}
        for line, cell in table[column].items() if column in table else ():
            if fault := check(cell):
                wrong.setdefault(f"{f'{quote(cell)} ' if cell else ''}{fault}", []).append(line)
        faults += capped(
            [
                f"{path}, {format_lines(lines)}, column {column!r}: {fault}"
                for fault, lines in wrong.items()
            ]
        )
    return faults


def _scan_fault(cell: str) -> str | None:
    if not cell:
        return "is empty; name the scan, or delete the row"
    return _text_fault(cell)


def _patient_fault(cell: str) -> str | None:
    if not cell:
        return "is empty; say whose scan it is, or delete the row"
    if cell.casefold() in _NO_PATIENT:
        return "stands for an empty cell; say whose scan it is, or delete the row"
    if is_rounded(cell):
        return (
            "is a number that a spreadsheet has rounded; format the column as text and write the "
            "whole number"
        )
    return _text_fault(cell)


def _text_fault(cell: str) -> str | None:
    return "has invisible characters; delete them" if has_invisible(cell) else None


def _split_fault(cell: str) -> str | None:
    return _choice_fault(cell, SPLITS, "train nor valid")


def _label_fault(cell: str) -> str | None:
    return _choice_fault(cell, LABELS, "0 nor 1")


def _choice_fault(cell: str, allowed: Container[str], names: str) -> str | None:
    if cell in allowed:
        return None
    return f"is {'' if cell else 'empty, '}neither {names}; say one of them"


def _age_fault(cell: str) -> str | None:
    if not cell or _AGE.fullmatch(cell):
        return None
    return "is no age in years; correct it, or leave the cell empty"


def _meaning(table: pd.DataFrame, settings: Data) -> pd.DataFrame:
    """The cells under the words that the processed set has for them."""
    columns = settings.columns
    meaning = pd.DataFrame(index=table.index)
    for name, column in (("scan", columns.scan), ("patient_id", columns.patient),
                         ("split", columns.split)):  # fmt: skip
        if column in table:
            meaning[name] = table[column]
    for group in GROUPS:
        column = getattr(columns, GROUP_COLUMNS.get(group, ""), None)
        meaning[group] = table.get(column, "")
    meaning["PatientAge"] = [
        f"{match[1]}Y" if (match := _AGE.fullmatch(age)) else "" for age in meaning["PatientAge"]
    ]
    meaning["PatientSex"] = meaning["PatientSex"].str.capitalize()  # m and M are one group
    for finding in settings.names:
        if finding in table:
            meaning[finding] = [LABELS.get(cell, 0) for cell in table[finding]]
    return meaning
