"""The two tables of `index`: chosen series, to be labelled, and all series with the reason."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from multi_abnormality.tools.index.earlier_table import DELIMITERS, EarlierTable
from multi_abnormality.tools.index.series_choice import Decision
from multi_abnormality.utils.atomic_io import atomic_write
from multi_abnormality.utils.console import printable
from multi_abnormality.utils.errors import InputError

COLUMNS = (
    "scan", "patient", "study", "study_date", "manufacturer", "model", "kernel", "thickness",
    "spacing", "slices", "sex", "age",
)  # fmt: skip
SERIES_COLUMNS = (
    "chosen", "reason", *COLUMNS[:4], "number", "description", "modality", "body_part",
    *COLUMNS[4:10], "length", "names_patient", "series", "salt",
)  # fmt: skip
_BOM = "\ufeff"


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
        "names_patient": "yes" if record.names_patient else "no",
        "series": record.key,
    }


def write_series_table(
    path: Path, rows: Sequence[Mapping[str, str]], damaged: Mapping[str, str], fingerprint: str
) -> None:
    """Write all series, and the damaged files below them, with the reasons.

    Args:
        path: the table.
        rows: cells of the series.
        damaged: damaged files, each with the reason.
        fingerprint: fingerprint of the salt.
    """
    files = [
        {"chosen": "no", "reason": f"damaged file: {reason}", "scan": name}
        for name, reason in damaged.items()
    ]
    salted = [{**row, "salt": fingerprint} for row in (*rows, *files)]
    _write(path, SERIES_COLUMNS, _cells(salted, SERIES_COLUMNS))


def _cells(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> list[list[str]]:
    return [[printable(row.get(name, "")) for name in columns] for row in rows]


def merge_table(
    old: EarlierTable, rows: Sequence[Mapping[str, str]], findings: Sequence[str]
) -> list[Mapping[str, str]]:
    """Write the chosen series with empty columns for the findings; rows of an older table are kept.

    A study that has a row gets no other one.

    Returns:
        The rows that are new.
    """
    scans, studies = {row["scan"] for row in old.rows}, {row["study"] for row in old.rows} - {""}
    added = [row for row in rows if row["scan"] not in scans and row["study"] not in studies]
    more = [name for name in (*COLUMNS, *findings) if name not in old.header]
    header = [*old.header, *more]
    cells = [[*row.cells, *[""] * len(more)] for row in old.rows] + _cells(added, header)
    text = (old.content or b"").decode()
    first = text.lstrip("\r\n").partition("\n")[0]
    if added or more or old.is_changed:
        if (old.path.read_bytes() if old.path.exists() else None) != old.content:
            raise InputError(
                f"{old.path}: was changed while the export was read; run the command again"
            )
        _write(
            old.path, header, cells,
            delimiter=max(DELIMITERS, key=first.count), prefix=_BOM * text.startswith(_BOM),
        )  # fmt: skip
    return added


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
