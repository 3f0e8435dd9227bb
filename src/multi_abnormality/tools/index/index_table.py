"""The two tables of `index`: chosen series, to be labelled, and all series with the reason."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from multi_abnormality.tools.index.series_choice import Decision
from multi_abnormality.utils.atomic_io import atomic_write
from multi_abnormality.utils.console import log, printable
from multi_abnormality.utils.errors import InputError, raise_errors
from multi_abnormality.utils.strict_csv import read_rows

COLUMNS = (
    "scan", "patient", "study", "study_date", "manufacturer", "model", "kernel", "thickness",
    "spacing", "slices", "sex", "age",
)  # fmt: skip
SERIES_COLUMNS = (
    "chosen", "reason", *COLUMNS[:4], "number", "description", "modality", "body_part",
    *COLUMNS[4:10], "length",
)  # fmt: skip
_DELIMITERS = ",;\t"
_BOM = "\ufeff"


class Merged(NamedTuple):
    """Numbers of rows of a table."""

    added: int
    kept: int


def row_of(decision: Decision, dates: str) -> dict[str, str]:
    """Return the cells of a series.

    Args:
        decision: the series.
        dates: what the study date shows: "day", "year" or "none".
    """
    record = decision.record
    length = {"day": 10, "year": 4, "none": 0}[dates]
    return {
        "scan": decision.path,
        "patient": record.patient,
        "study": record.study,
        "study_date": record.study_date[:length],
        "manufacturer": record.manufacturer,
        "model": record.model,
        "kernel": record.kernel,
        "thickness": record.thickness,
        "spacing": "" if record.spacing is None else f"{record.spacing:g}",
        "slices": str(record.slices),
        "sex": record.sex,
        "age": record.age,
        "chosen": "yes" if decision.is_chosen else "no",
        "reason": decision.reason.text,
        "number": record.number,
        "description": record.description,
        "modality": record.modality,
        "body_part": record.body_part,
        "length": f"{record.length:.0f}" if record.spacing else "",
    }


def write_series_table(
    path: Path, decisions: Sequence[Decision], damaged: Mapping[str, str], dates: str
) -> None:
    """Write all series, and the damaged files below them, with the reasons."""
    rows = [row_of(decision, dates) for decision in decisions]
    rows += [
        {"chosen": "no", "reason": f"damaged file: {reason}", "scan": name}
        for name, reason in damaged.items()
    ]
    _write(path, SERIES_COLUMNS, _cells(rows, SERIES_COLUMNS))


def _cells(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> list[list[str]]:
    return [[printable(row.get(name, "")) for name in columns] for row in rows]


def merge_table(path: Path, rows: Sequence[Mapping[str, str]], findings: Sequence[str]) -> Merged:
    """Write the chosen series with empty columns for the findings; rows of an older table are kept.

    A study that has a row gets no other one, and no cell that exists is changed.

    Raises:
        InputError: the older table cannot be read, or was written with another salt.
    """
    columns = [*COLUMNS, *findings]
    if not path.exists():
        _write(path, columns, _cells(rows, columns))
        return Merged(len(rows), 0)
    table = read_rows(path, "correct it, or name another file by --out", _DELIMITERS)
    raise_errors(table.faults, f"{path}: correct these first")
    header = [name.strip() for name in table.header]
    if "scan" not in header:
        raise InputError(
            f"{path}: exists and has no column 'scan', so it is not a table of this command; name "
            "another file by --out"
        )
    old = [dict(zip(header, map(str.strip, cells), strict=True)) for cells in table.rows]
    _check_salt(path, old, rows)
    scans = {row["scan"] for row in old}
    studies = {row["study"]: row["scan"] for row in old if row.get("study")}
    added = [row for row in rows if row["scan"] not in scans and row["study"] not in studies]
    _log_differences(path, old, rows)
    more = [name for name in columns if name not in header]
    if added or more:
        text = path.read_text(encoding="utf-8")
        first = text.lstrip("\r\n").partition("\n")[0]
        cells = [[*kept, *[""] * len(more)] for kept in table.rows]
        cells += _cells(added, (*header, *more))
        _write(
            path, [*header, *more], cells,
            delimiter=max(_DELIMITERS, key=first.count), prefix=_BOM * text.startswith(_BOM),
        )  # fmt: skip
    return Merged(len(added), len(old))


def _check_salt(
    path: Path, old: Sequence[Mapping[str, str]], rows: Sequence[Mapping[str, str]]
) -> None:
    """Raise an error if a scan's patient has another pseudonym than in the older table."""
    patients = {row["scan"]: row["patient"] for row in rows}
    for row in old:
        new = patients.get(row["scan"])
        if new and row.get("patient", new) != new:
            raise InputError(
                f"{path}: {row['scan']} has another pseudonym of its patient there: the table was "
                "written with another salt, or its column was edited. Name that salt by --salt, or "
                "another file by --out"
            )


def _log_differences(
    path: Path, old: Sequence[Mapping[str, str]], rows: Sequence[Mapping[str, str]]
) -> None:
    """Log how the rows of the older table differ from what is chosen now."""
    scans = {row["scan"] for row in rows}
    studies = {row["study"] for row in rows}
    others = [row for row in old if row["scan"] not in scans]
    if changed := sum(row.get("study") in studies for row in others):
        log.info(
            "%s: %d studies keep their row, although another series is preferred", path, changed
        )
    if lost := len(others) - changed:
        log.warning("%s: %d rows name scans that are not chosen now; they are kept", path, lost)


def _write(
    path: Path,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    delimiter: str = ",",
    prefix: str = "",
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    atomic_write(f"{prefix}{text.getvalue()}".encode(), path)
