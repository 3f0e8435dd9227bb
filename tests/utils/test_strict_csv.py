"""Strict CSV reading: invalid files are refused with the reason."""

import io
import os
import re
import time
import zipfile
from pathlib import Path

import pytest

from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.strict_csv import format_ranges, read_rows


def fault(path: Path, delimiters: str = ",") -> str:
    with pytest.raises(InputError) as caught:
        read_rows(path, "fetch it again", delimiters)
    return str(caught.value).removeprefix(str(path))


def zipped(name: str, text: str = "") -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, text)
    return content.getvalue()


def test_cells_are_read_as_they_are(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_bytes(b'\xef\xbb\xbfa,b\r\n1,"x, ""y"""\r\n\r\n,\r\n"two\nlines", 3\r\n')
    table = read_rows(path, "")
    assert table.header == ["a", "b"]
    assert table.rows == [["1", 'x, "y"'], ["two\nlines", "3"]]
    assert table.lines == [2, 6]
    assert table.faults == []


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_header_decides_what_separates_cells(tmp_path: Path, delimiter: str):
    path = tmp_path / "table.csv"
    path.write_text(
        '\n"a,b;c,d",b\n1,"2;3;4"\n'.replace('",b', f'"{delimiter}b').replace("1,", f"1{delimiter}")
    )
    assert read_rows(path, "", ",;\t").rows == [["1", "2;3;4"]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end_is_read(tmp_path: Path, end: str):
    path = tmp_path / "table.csv"
    path.write_bytes(end.join(["a,b", "1,2", "3,4", ""]).encode())
    assert read_rows(path, "").lines == [2, 3]
    path.write_bytes(end.join(["a,b", "1,2", "\xfc,4", ""]).encode("latin-1"))
    assert fault(path).startswith(", line 3: is not in UTF-8: has the byte 0xFC")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            zipped("[Content_Types].xml", "xl/workbook.xml"),
            "Excel workbook (.xlsx); save it as CSV",
        ),
        (
            zipped("mimetype", "application/vnd.oasis.opendocument.spreadsheet"),
            ": is an OpenDocument spreadsheet",
        ),
        (zipped("labels.csv"), ": is a ZIP file; unpack it"),
        (bytes.fromhex("d0cf11e0a1b11ae1") + bytes(512), ": is an Excel workbook (.xls); save it"),
        ("a,b\n1,2\n".encode("utf-16"), ": is text in UTF-16; save it as CSV in UTF-8"),
        (
            "a,b\n1,2\n".encode("utf-16-le"),
            ", line 1: has a NUL byte, so it is no text, or",
        ),
        (b"a,b\n1,\x002\n", ", line 2: has a NUL byte"),
        ("a,b\n1,2\n".encode("utf-32"), ": is text in UTF-32; save it as CSV in UTF-8"),
        (b"\0\0\xfe\xff" + "a,b\n1,2\n".encode("utf-32-be"), ": is text in UTF-32; save it"),
        (
            "a,b\n1,2\n".encode("utf-32-le"),
            ", line 1: has a NUL byte, so it is no text, or text in U",
        ),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ": is a PNG image; give the table itself"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", ": is a JPEG image; give the table itself"),
        (b"\x28\xb5\x2f\xfd\x04\0", ": is compressed by Zstandard (.zst); decompress it"),
        (b"\xfd7zXZ\0\0", ": is compressed by xz; decompress it"),
        (b"BZh91AY&SY", ": is compressed by bzip2; decompress it"),
        (b"%PDF-1.7\n", ": is a PDF document"),
        (b"a|b\n1|2\n", ", line 1: has one column; separate the cells by commas or semicolons or"),
        (b"\x1f\x8b\x08", ": is compressed by gzip; decompress it"),
        (b"<!DOCTYPE html><html>", ": is an HTML or XML file"),
        (b"version https://git-lfs.github.com/spec/v1\n", ": is a pointer of Git LFS"),
        ("a,b\n\nM\u00fcller,1\n".encode("cp1252"), ", line 3: is not in UTF-8: has the byte 0xFC"),
        (b"\xef\xbb\xbfa\n\xfc\n", ", line 2: is not in UTF-8: has the byte 0xFC ('\u00fc' in"),
        (b"a\n\x81\n", ", line 2: is not in UTF-8: has the byte 0x81; save it"),
        (b"", ": is empty; fetch it again"),
        (b"\xef\xbb\xbf\n \n", ": is empty; fetch it again"),
        (b"a,b\n,\n", ": has no rows below its header; fetch it again"),
        (b'a,b\n1,"2\n3,4\n', ", line 2: a quote opens and is never closed; close it"),
        (b'a,b\n1,2\n3,"4\n5,"6"\n', ", line 3: a quote opens and is never closed; close it"),
        (b'a,b\n1,"2"x\n', ", line 2: text follows a closing quote"),
        (b'a,b\n1,"2\n' + b"3,4\n" * 50_000, ", line 2: a quote opens and is never closed"),
        (b"a,b\n1," + b"x" * 200_000, ", line 2: a cell has more than 131,072 characters"),
        (b"a,b\n1," + b"x" * 2_000_000, ", line 2: has 2,000,002 characters, more than the 1,000,"),
        (b"a,b\n1,2" + b",3" * 1_000_000, ", line 2: has 2,000,003 characters"),
        (b"x" + b"," * 900_000 + b"\n1", ", line 1: has 900,001 columns, more than 10,000"),
        (b"x," * 1_000_000 + b"\n1", ", line 1: has 2,000,001 characters"),
        (b"sep=;\na;b\n1;2\n", ", line 1: 'sep=' is for Excel alone; delete that line"),
        (b"a\n" + b"\n" * 100_000_000, ": has 100,000,002 bytes, more than the 100,000,000"),
    ],
)
def test_other_files_are_identified_quickly(tmp_path: Path, content: bytes, expected: str):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    start = time.process_time()
    assert expected in fault(path, ",;\t")
    assert time.process_time() - start < 10


def test_rows_that_do_not_fit_the_header_are_errors(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,2\n1,2,3\n1\n")
    table = read_rows(path, "")
    assert table.rows == [["1", "2"]]
    assert [fault.removeprefix(f"{path}, ") for fault in table.faults] == [
        "line 3: has 3 cells and the header 2; put a cell that contains ',' in quotes",
        "line 4: has 1 cell and the header 2; add the missing ones",
    ]


def test_line_numbers_are_formatted_as_ranges():
    assert format_ranges([14, 3, 2, 4]) == "lines 2-4, 14"
    assert format_ranges([2, 3], "row") == "rows 2-3"
    assert format_ranges([7]) == "line 7"
    assert format_ranges([]) == "lines none"


def test_other_than_regular_files_do_not_block(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "."):
        assert "is not a file but a folder or device" in fault(tmp_path / name)
    assert re.match(r": cannot be read \(No such file.*\); fetch it again", fault(tmp_path / "no"))
