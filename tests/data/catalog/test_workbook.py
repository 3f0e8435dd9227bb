"""Own tables as .xlsx workbooks."""

import csv
import datetime
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from openpyxl import Workbook

from multi_abnormality.data.catalog import workbook
from own_folder import FINDINGS, GERMAN, GERMAN_ROWS, HEADER, ROWS, OwnFolder

Rows = list[list[Any]]


def cells(rows: tuple[str, ...] = ROWS) -> Rows:
    """Rows of a CSV file with numbers where it has digits."""
    return [
        [int(cell) if cell in ("0", "1") else cell or None for cell in row]
        for row in csv.reader([HEADER, *rows])
    ]


def write(own: OwnFolder, rows: Rows, sheet: str = "Befunde", others: tuple[str, ...] = ()) -> Any:
    """Write a workbook, and return its sheet for further changes."""
    book = Workbook()
    book.active.title = sheet
    for row in rows:
        book.active.append(row)
    for other in others:
        book.create_sheet(other).append(["nothing", "here"])
    book.save(own.root / "labels.xlsx")
    return book


@pytest.fixture
def own(tmp_path: Path) -> OwnFolder:
    return OwnFolder(tmp_path / "data")


def test_a_workbook_is_read_as_the_same_csv_file(own: OwnFolder):
    own.write(rows=GERMAN_ROWS)
    expected = own.read(values=GERMAN)
    write(own, cells(GERMAN_ROWS))
    pd.testing.assert_frame_equal(own.read(values=GERMAN, table="labels.xlsx"), expected)


def test_cells_of_any_type_are_text(own: OwnFolder):
    rows = cells()
    for row, labels in zip(rows[1:], ([1.0, False, True], [0, 1.0, 0]) * 2, strict=False):
        row[3:] = labels
    for number, row in enumerate(rows[1:]):
        row[1] = 10 * number + 7  # patients
    values = {"positive": ("1", "TRUE"), "negative": ("0", "FALSE"), "uncertain": (), "missing": ()}
    write(own, [[None], [], *rows, [None, " "]])
    volumes = own.read(table="labels.xlsx", values=values).set_index("name")
    assert volumes.loc["a/one", ["patient_id", *FINDINGS]].tolist() == ["7", 1, 0, 1]
    assert volumes.loc["a/two", ["patient_id", *FINDINGS]].tolist() == ["17", 0, 1, 0]


def test_the_first_sheet_is_read_unless_another_is_named(own: OwnFolder, caplog):
    write(own, cells(), others=("Notizen",))
    with caplog.at_level(logging.WARNING, logger="multi_abnormality"):
        assert len(own.read(table="labels.xlsx")) == 5
    assert "has 2 sheets, of which the first, 'Befunde', is read" in caplog.text
    caplog.clear()
    assert len(own.read(table="labels.xlsx", sheet="Befunde")) == 5
    assert "sheets" not in caplog.text
    path = own.root / "labels.xlsx"
    message = own.error(table="labels.xlsx", sheet="Befund")
    assert f"{path}: has no sheet 'Befund'; set data.sheet in params.yaml to one of" in message
    assert f"{path}, sheet 'Notizen': has no rows below" in own.error(
        table="labels.xlsx", sheet="Notizen"
    )


def test_errors_name_sheet_row_and_column(own: OwnFolder):
    rows = cells()
    rows[2][3], rows[4][0], rows[5][2] = "yes", "a/lost", "both"
    write(own, [[], *rows])
    place = f"{own.root / 'labels.xlsx'}, sheet 'Befunde', row"
    message = own.error(table="labels.xlsx")
    assert f"{place} 4, column 'Cyst': 'yes' is neither 0 nor 1" in message
    assert f"{place} 6: {own.root}/a/lost does not exist" in message
    assert f"{place} 7, column 'split': 'both' is in no list of data.split_values" in message
    rows[0][3] = "Zyste"
    write(own, [[], *rows])
    assert f"{place} 2: column 'Cyst' (data.findings" in own.error(table="labels.xlsx")


def test_cells_without_a_certain_value_are_refused(own: OwnFolder):
    """A formula's stored value may be missing, and a spreadsheet makes dates of 1-2."""
    rows = cells()
    rows[1][3], rows[3][3] = "=1+0", "=D2"
    rows[2][1] = datetime.datetime(2026, 2, 1)
    for row in rows:
        row.append("=1+1")
    rows[0][-1] = "not read"
    book = write(own, rows)
    book.active.merge_cells("E4:E5")
    book.save(own.root / "labels.xlsx")
    place = f"{own.root / 'labels.xlsx'}, sheet 'Befunde', row"
    message = own.error(table="labels.xlsx")
    assert f"{place}s 2, 4, column 'Cyst': is a formula; replace it by its value" in message
    assert f"{place} 3, column 'patient': is a date or time; format the column as" in message
    assert f"{place}s 4, 5, column 'Mass/nodule': is merged with other cells" in message
    assert "not read" not in message
    assert message.count("\n") == 3


def test_a_number_that_a_spreadsheet_rounded_is_no_patient(own: OwnFolder):
    rows = cells()
    rows[1][1] = rows[2][1] = 1.23456789012346e18
    write(own, rows)
    message = own.error(table="labels.xlsx")
    assert "rows 2, 3, column 'patient': '1.23456789012346E+18' is a number that" in message


@pytest.mark.parametrize("number", [1.23456789012345e15, 1234567890123450])
@pytest.mark.parametrize(("index", "column"), [(0, "scan"), (1, "patient")])
def test_numbers_of_more_than_15_digits_are_no_ids(
    own: OwnFolder, number: float, index: int, column: str
):
    rows = cells()
    rows[1][index] = rows[2][index] = number
    write(own, rows)
    message = own.error(table="labels.xlsx")
    assert message.count("\n") == 1
    assert f"rows 2, 3, column {column!r}: '1.23456789012345E+15' is a number that" in message
    assert "keeps 15 digits at most; format the column as text, and enter the ids" in message
    rows[1][index] = rows[2][index] = str(number)
    rows[1][index], rows[2][index] = "a/one", "a/two"
    rows[1][1] = rows[2][1] = "1234567890123450"  # text
    write(own, rows)
    assert len(own.read(table="labels.xlsx")) == 5


@pytest.mark.parametrize(
    ("number", "is_read"),
    [
        (1234567890123456, True),
        (1.234567890123456e15, True),
        (9007199254740991, True),
        (9007199254740993, False),  # a double would be ...992
        (12345678901234567, False),
        (1234567890123450, False),  # by Excel, of ...451 to ...459
    ],
)
def test_numbers_of_16_digits_are_ids_if_no_spreadsheet_rounded_them(
    own: OwnFolder, number: float, is_read: bool
):
    rows = cells()
    rows[1][1] = rows[2][1] = number
    write(own, rows)
    if is_read:
        patients = own.read(table="labels.xlsx").set_index("name")["patient_id"]
        assert patients["a/one"] == str(int(number))
    else:
        assert "is a number that a spreadsheet may have rounded" in own.error(table="labels.xlsx")


@pytest.mark.parametrize("merged", [None, "A1:F1"])
def test_a_title_above_the_header_is_one_error(own: OwnFolder, merged: str | None):
    book = write(own, [["Befundliste 2024"], *cells()])
    if merged:
        book.active.merge_cells(merged)
    book.save(own.root / "labels.xlsx")
    assert own.error(table="labels.xlsx").splitlines()[1:] == [
        f"  - {own.root}/labels.xlsx, sheet 'Befunde', row 1: looks like a title or comment; "
        "delete the rows above that of the names of the columns"
    ]


def test_a_hidden_first_sheet_is_read_only_if_it_is_named(own: OwnFolder):
    book = write(own, cells(), others=("Notizen",))
    book.active.sheet_state = "hidden"
    book.save(own.root / "labels.xlsx")
    assert "its first sheet, 'Befunde', is hidden; set data.sheet in" in own.error(
        table="labels.xlsx"
    )
    assert len(own.read(table="labels.xlsx", sheet="Befunde")) == 5


def test_invalid_workbooks_are_refused(own: OwnFolder, monkeypatch):
    path = own.root / "labels.xlsx"
    write(own, cells())
    whole = path.read_bytes()
    for content in (b"", b"scan,patient\n", whole[:-200], whole[:1000]):
        path.write_bytes(content)
        assert f"{path}: is not a whole .xlsx workbook" in own.error(table="labels.xlsx")
    path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    assert "is an .xls workbook, or has a password" in own.error(table="labels.xlsx")
    write(own, [])
    assert "sheet 'Befunde': is empty" in own.error(table="labels.xlsx")
    monkeypatch.setattr(workbook, "MAX_UNPACKED", 1_000)
    assert "bytes when unpacked, more than the 1,000 of any table" in own.error(table="labels.xlsx")
