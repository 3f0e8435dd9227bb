"""A table of one's own, read strictly: whose each scan is, its split, and what it has."""

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from multi_abnormality.data.metadata_table import GROUPS
from multi_abnormality.data.names import SPLITS
from multi_abnormality.data.rows import capped, read_rows, told_lines
from multi_abnormality.errors import InputError
from multi_abnormality.params_data import Columns, Data

DELIMITERS = ",;\t"
LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
# Where a group's column of the processed set comes from.
GROUP_COLUMNS = {
    "Manufacturer": "manufacturer",
    "ConvolutionKernel": "kernel",
    "PatientSex": "sex",
    "PatientAge": "age",
}
_QUOTED = re.compile(r'"[^"]*("|$)')
_AGE = re.compile(r"(\d{1,3})(?:\.\d+)?Y?")
_LEFT_OUT = {
    "patient": "set it to null if each scan is of another patient",
    "split": "set it to null to have the valid split drawn",
    "findings": "take it out there",
}


def read_own_table(path: Path, settings: Data) -> tuple[pd.DataFrame, list[str]]:
    """Read a CSV with a row a scan; cells are separated by commas, semicolons or tabs.

    Returns:
        A row a scan, indexed by the line in the file: scan as it stands there, patient_id, split
        and the findings as 0 or 1, where the table has them, and GROUPS; and the faults. Where
        there are faults, cells that could not be read have some value.
    """
    try:
        header, rows, lines = read_rows(path, "save it as CSV in UTF-8", _delimiter(path))
    except InputError as error:
        return pd.DataFrame(columns=["scan"]), [str(error)]
    header = [_clean(cell) for cell in header]
    if header[0].lower().startswith("sep="):
        fault = f"{path}, line 1: {header[0]!r} tells Excel alone how to read it; delete that line"
        return pd.DataFrame(columns=["scan"]), [fault]
    numbered = [
        (n, [_clean(cell) for cell in row])
        for n, row in zip(lines, rows, strict=True)
        if any(map(str.strip, row))  # spreadsheets end with rows of empty cells
    ]
    faults = [f"{path}, line 1: {fault}" for fault in _header_faults(header, settings)]
    bad = [n for n, row in numbered if len(row) != len(header)]
    faults += capped([f"{path}, line {n}: has not {len(header)} cells as the header" for n in bad])
    kept = [(n, row) for n, row in numbered if len(row) == len(header)]
    table = pd.DataFrame([row for _, row in kept], [n for n, _ in kept], header, dtype=str)
    table = table.loc[:, ~table.columns.duplicated()]
    return _meaning(table, settings), faults + _cell_faults(table, settings, path)


def unread_columns(path: Path, settings: Data) -> list[str]:
    """Columns of the table that nothing in params.yaml names."""
    header = read_rows(path, "", _delimiter(path))[0]
    return [name for cell in header if (name := _clean(cell)) and name not in _wanted(settings)]


def _clean(cell: str) -> str:
    """Without spaces around it, and letters with accents written the one way of two (NFC)."""
    return unicodedata.normalize("NFC", cell.strip())


def _delimiter(path: Path) -> str:
    """The one that the first line has most of, outside quotes.

    What cannot be read is told by who reads it all.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            first = _QUOTED.sub("", file.readline())
    except OSError:
        return ","
    return max(DELIMITERS, key=first.count)


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
    for column in sorted({column for column in header if header.count(column) > 1}):
        if column in wanted:
            yield f"column {column!r} comes more than once; keep one"
    for column, key in wanted.items():
        if column in header:
            continue
        close = difflib.get_close_matches(column, unknown, n=1, cutoff=0.5)
        hint = f"is it {close[0]!r}? " if close else f"there are {', '.join(map(repr, header))}. "
        role = key.rpartition(".")[2]
        out = _LEFT_OUT.get(role, "name another one there")
        yield f"column {column!r} ({key} in params.yaml) is missing; {hint}Rename it, or {out}"


def _cell_faults(table: pd.DataFrame, settings: Data, path: Path) -> list[str]:
    columns = settings.columns
    checks: list[tuple[str | None, Callable[[str], bool], str]] = [
        (columns.scan, bool, "is empty; name the scan, or delete the row"),
        (columns.patient, bool, "is empty; say whose scan it is, or delete the row"),
        (columns.split, SPLITS.__contains__, "is neither train nor valid; say one of them"),
        (columns.age, _is_age, "is no age in years; correct it, or leave the cell empty"),
    ]
    label_fault = "is neither 0 nor 1; say one of them"
    checks += [(name, LABELS.__contains__, label_fault) for name in settings.names]
    faults = []
    for column, is_right, fault in checks:
        cells = table[column] if column in table else table.iloc[:, 0][:0]
        wrong: dict[str, list[int]] = {}
        for line, cell in cells.items():
            if not is_right(cell):
                wrong.setdefault(cell, []).append(line)
        faults += capped(
            [
                f"{path}, {told_lines(lines)}, column {column!r}: {f'{cell!r} ' if cell else ''}"
                f"{fault if cell else fault.replace('is neither', 'is empty, neither')}"
                for cell, lines in wrong.items()
            ]
        )
    return faults


def _is_age(cell: str) -> bool:
    return not cell or _AGE.fullmatch(cell) is not None


def _meaning(table: pd.DataFrame, settings: Data) -> pd.DataFrame:
    """The cells under the words that the processed set has for them."""
    columns = settings.columns
    told = pd.DataFrame(index=table.index)
    for name, column in (("scan", columns.scan), ("patient_id", columns.patient),
                         ("split", columns.split)):  # fmt: skip
        if column in table:
            told[name] = table[column]
    for group in GROUPS:
        column = getattr(columns, GROUP_COLUMNS.get(group, ""), None)
        told[group] = table.get(column, "")
    told["PatientAge"] = [
        f"{match[1]}Y" if (match := _AGE.fullmatch(age)) else "" for age in told["PatientAge"]
    ]
    told["PatientSex"] = told["PatientSex"].str.capitalize()  # m and M are one group
    for finding in settings.names:
        if finding in table:
            told[finding] = [LABELS.get(cell, 0) for cell in table[finding]]
    return told
