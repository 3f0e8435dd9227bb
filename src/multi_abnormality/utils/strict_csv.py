"""Strict reading of CSV files, used for all tables of the data."""

import csv
import io
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from multi_abnormality.utils.errors import InputError, first_few, plural

MOST_FAULTS = 5  # shown of one kind
# Bounds on time and memory for files that are not tables of labels. CT-RATE's have at most 47,149
# rows and 44 columns.
MAX_BYTES = 100_000_000
MAX_LINE = 1_000_000  # characters
MAX_COLUMNS = 10_000
WORKBOOK = ".xlsx"  # suffix of tables that are no CSV files

_SAVE = 'save it as CSV in UTF-8 (in Excel "CSV UTF-8")'
_SIGNATURES = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": f"is an Excel workbook (.xls); {_SAVE}",
    b"\xff\xfe\x00\x00": f"is text in UTF-32; {_SAVE}",  # before UTF-16, whose bytes it has
    b"\x00\x00\xfe\xff": f"is text in UTF-32; {_SAVE}",
    b"\xff\xfe": f"is text in UTF-16; {_SAVE}",
    b"\xfe\xff": f"is text in UTF-16; {_SAVE}",
    b"\x1f\x8b": "is compressed by gzip; decompress it",
    b"BZh": "is compressed by bzip2; decompress it",
    b"\xfd7zXZ\x00": "is compressed by xz; decompress it",
    b"(\xb5/\xfd": "is compressed by Zstandard (.zst); decompress it",
    b"7z\xbc\xaf\x27\x1c": "is a 7-Zip archive; unpack it",
    b"\x89PNG\r\n\x1a\n": f"is a PNG image; give the table itself, or {_SAVE}",
    b"\xff\xd8\xff": f"is a JPEG image; give the table itself, or {_SAVE}",
    b"%PDF-": f"is a PDF document; give the table itself, or {_SAVE}",
    b"PAR1": f"is a Parquet file; {_SAVE}",
    b"\x89HDF\r\n\x1a\n": f"is an HDF5 file; {_SAVE}",
    b"SQLite format 3\x00": f"is an SQLite database; {_SAVE}",
    b"version https://git-lfs": "is a pointer of Git LFS, not the table; run `git lfs pull`",
    b"<": f"is an HTML or XML file; fetch the table itself, or {_SAVE}",
}
_DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}
_WHOLE_NUMBER = re.compile(r"(-?(?:0|[1-9]\d*))\.0")
_NAMES_IN_ZIP = {
    b"xl/": f"is an Excel workbook (.xlsx); {_SAVE}",
    b"opendocument.spreadsheet": f"is an OpenDocument spreadsheet (.ods); {_SAVE}",
}


@dataclass(frozen=True)
class TableName:
    """Name of a table in errors."""

    path: Path | str  # path of the file
    # Name of the sheet of a workbook, whose rows are counted; None for a CSV file.
    sheet: str | None = None
    header_line: int = 1  # line or row of the names of the columns

    def __str__(self) -> str:
        return str(self.path) if self.sheet is None else f"{self.path}, sheet {self.sheet!r}"

    def at(self, lines: Sequence[int]) -> str:
        """Name some lines or rows of the table."""
        return f"{self}, {format_lines(lines, self.unit)}"

    @property
    def unit(self) -> str:
        """What the lines of the table are called."""
        return "line" if self.sheet is None else "row"

    @property
    def header(self) -> str:
        """Name the line or row of the header."""
        return self.at([self.header_line])


@dataclass(frozen=True)
class Table:
    """Cells of a CSV file or sheet as text."""

    header: list[str]  # names of the columns
    rows: list[list[str]]  # rows with as many cells as the header, without empty ones
    lines: list[int]  # for each row, the line of the file that it ends on, or the row of the sheet
    faults: list[str]  # error messages for the other rows, and for cells without a certain value
    name: TableName  # name of the table in errors


def truncate(errors: Sequence[str]) -> list[str]:
    """The first few errors of one kind, then the number of the others."""
    more = len(errors) - MOST_FAULTS
    return [*errors[:MOST_FAULTS], *([f"... and {more} more like it"] if more > 0 else [])]


def format_lines(numbers: Sequence[int], unit: str = "line") -> str:
    """Format line numbers, such as "lines 2, 5", truncated after a few."""
    return f"{unit}{'s' if len(numbers) > 1 else ''} {first_few([*map(str, numbers)], MOST_FAULTS)}"


def format_ranges(numbers: Iterable[int], unit: str = "line") -> str:
    """Format all line numbers, such as "lines 2-9, 14"."""
    ranges: list[tuple[int, int]] = []
    ordered = sorted(numbers)
    for number in ordered:
        follows = ranges and ranges[-1][1] == number - 1
        ranges.append((ranges.pop()[0] if follows else number, number))
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    return f"{unit}{'' if len(ordered) == 1 else 's'} {', '.join(texts) or 'none'}"


def cell_value(text: str) -> str:
    """Return a cell in the form in which values are compared: 1.0 is 1, and True is TRUE."""
    if text.casefold() in ("true", "false"):
        return text.upper()
    whole = _WHOLE_NUMBER.fullmatch(text)
    return whole[1] if whole else text


def repeated(values: Iterable[str]) -> list[str]:
    """Values that occur more than once, sorted."""
    return sorted(value for value, count in Counter(values).items() if count > 1)


def read_rows(path: Path, fix: str, delimiters: str = ",") -> Table:
    """Read a CSV file in UTF-8.

    Args:
        fix: what to do with a damaged file, such as "fetch it again".
        delimiters: characters that may separate cells; the header decides which one does.

    Raises:
        InputError: the file is not such a table, or has no rows below the header.
    """
    return parse_rows(read_bytes(path, fix), str(path), fix, delimiters)


def parse_rows(content: bytes, name: str, fix: str, delimiters: str = ",") -> Table:
    """Parse the content of a CSV file as read_rows does."""
    text = _decode(content, name, fix)
    delimiter = _delimiter(text, delimiters)
    header: list[str] = []
    rows, lines, errors = [], [], []
    for line, row in _parse(text, name, fix, delimiter):
        if not header:
            header = row
            _check_header(header, name, delimiters)
        elif len(row) == len(header):
            rows.append(row)
            lines.append(line)
        else:
            errors.append(f"{name}, line {line}: {_count_error(row, header, delimiter)}")
    if not header:
        raise InputError(f"{name}: is empty; {fix}")
    if not rows and not errors:
        raise InputError(f"{name}: has no rows below its header; {fix}")
    return Table(header, rows, lines, truncate(errors), TableName(name))


def read_bytes(path: Path, fix: str) -> bytes:
    """Read a file that may be a table.

    Raises:
        InputError: it is no file, too large for a table, or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a FIFO would never end
            raise InputError(f"{path}: is not a file but a folder or device; give the table")
        if status.st_size > MAX_BYTES:
            raise InputError(
                f"{path}: has {status.st_size:,} bytes, more than the {MAX_BYTES:,} of any table "
                "of labels; check that it is the right file"
            )
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {fix}") from None


def _decode(content: bytes, name: str, fix: str) -> str:
    kinds = [kind for signature, kind in _SIGNATURES.items() if content.startswith(signature)]
    if content.startswith(b"PK\x03\x04"):
        known = (kind for inside, kind in _NAMES_IN_ZIP.items() if inside in content)
        kinds = [next(known, "is a ZIP file; unpack it")]
    if kinds:
        raise InputError(f"{name}: {kinds[0]}")
    if (nul := content.find(0)) >= 0:
        line = _line_of(content, nul)
        # Of ASCII, UTF-32 has three NUL bytes a character, and UTF-16 one.
        text = "UTF-32" if content[:4].count(0) == 3 else "UTF-16"
        raise InputError(
            f"{name}, line {line}: has a NUL byte, so it is no text, or text in {text}; {_SAVE}, "
            f"or {fix}"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The error's position does not include a byte order mark.
        start = error.start + len(content) - len(error.object)
        byte = content[start : start + 1]
        letter = byte.decode("cp1252", "ignore")
        hint = f" ({letter!r} in Windows-1252, as Excel saves plain CSV)" if letter else ""
        raise InputError(
            f"{name}, line {_line_of(content, start)}: is not in UTF-8: has the byte "
            f"0x{byte.hex().upper()}{hint}; {_SAVE}, or {fix}"
        ) from None


def _line_of(content: bytes, position: int) -> int:
    line_end = b"\n" if b"\n" in content else b"\r"  # files of old Macs have only \r
    return content.count(line_end, 0, position) + 1


def _delimiter(text: str, delimiters: str) -> str:
    """The delimiter that is most frequent in the first line, outside quotes."""
    first = text.lstrip("\r\n").partition("\n")[0].partition("\r")[0]
    outside = "".join(first[:MAX_LINE].split('"')[::2])
    return max(delimiters, key=outside.count)


def _parse(text: str, name: str, fix: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Non-empty rows, each with the line that it ends on."""
    reader = csv.reader(
        _short_lines(text, name), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    begin = 1
    try:
        for row in reader:
            begin = reader.line_num + 1
            if any(map(str.strip, row)):  # spreadsheets end with rows of empty cells
                yield reader.line_num, row
    except csv.Error as error:
        problem = _explain(error, reader.line_num - begin)
        raise InputError(f"{name}, line {begin}: {problem}, or {fix}") from None


def _explain(error: csv.Error, more_lines: int) -> str:
    """Explain an error of the csv module in a row that started `more_lines` lines before."""
    problem = str(error)
    if "expected after" in problem and not more_lines:
        return f"text follows a closing quote ({problem}); write a quote within a cell twice"
    if "field limit" in problem and not more_lines:
        return f"a cell has more than {csv.field_size_limit():,} characters; shorten it"
    return "a quote opens and is never closed; close it"


def _short_lines(text: str, name: str) -> Iterator[str]:
    for number, line in enumerate(io.StringIO(text, newline=""), 1):
        if len(line) > MAX_LINE:
            raise InputError(
                f"{name}, line {number}: has {len(line):,} characters, more than the {MAX_LINE:,} "
                "of a table's row; check that it is the right file, with a line for each scan"
            )
        yield line


def _count_error(row: Sequence[str], header: Sequence[str], delimiter: str) -> str:
    fix = (
        f"put a cell that contains {delimiter!r} in quotes"
        if len(row) > len(header)
        else "add the missing ones"
    )
    return f"has {plural(len(row), 'cell', 'cells')} and the header {len(header)}; {fix}"


def _check_header(header: Sequence[str], name: str, delimiters: str) -> None:
    if len(header) == 1 and "|" in header[0]:
        names = " or ".join(_DELIMITER_NAMES[one] for one in delimiters)
        raise InputError(
            f"{name}, line 1: has one column; separate the cells by {names}, not by '|'"
        )
    if len(header) > MAX_COLUMNS:
        raise InputError(
            f"{name}, line 1: has {len(header):,} columns, more than {MAX_COLUMNS:,}; check that "
            "it is the right file, with a line for each scan"
        )
    if header[0].lower().startswith("sep="):
        raise InputError(f"{name}, line 1: {header[0]!r} is for Excel alone; delete that line")
