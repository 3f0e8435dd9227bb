"""The tables of an earlier run: which series each row names, and which salt they are under."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from multi_abnormality.tools.index.series_choice import Decision
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError, plural, raise_errors
from multi_abnormality.utils.strict_csv import read_rows

DELIMITERS = ",;\t"
_LINK = re.compile(r"(R[0-9a-f]{16})(?:\.zip)?")  # the name that scan_paths.link_series gives
_SALT_FIX = "name that salt by --salt, or another file by --out"


@dataclass
class EarlierRow:
    """A row of the table of chosen series."""

    cells: list[str]
    positions: dict[str, int]  # of the columns
    match: Decision | None = None  # the series that it names

    def __getitem__(self, column: str) -> str:
        """Return the cell of a column, "" if the table has no such column."""
        return self.cells[self.positions[column]].strip() if column in self.positions else ""

    @property
    def link(self) -> str:
        """Return the series that its path is a folder of links to, "" for another path."""
        link = _LINK.fullmatch(Path(self["scan"]).name)
        return link[1] if link else ""


@dataclass
class EarlierTable:
    """Table of chosen series, with labels, and the table of all series beside it."""

    path: Path
    header: list[str] = field(default_factory=list)
    rows: list[EarlierRow] = field(default_factory=list)
    # Rows of the table of all series, by study (also by "") and both path and series.
    series: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    content: bytes | None = None  # of the file at `path`; None: there was none
    has_salt: bool = False  # whether the fingerprint of the salt is known
    is_changed: bool = False  # whether paths were replaced

    @classmethod
    def read(cls, path: Path, series_table: Path, fingerprint: str) -> Self:
        """Read the tables; without a table of chosen series, that of all series does not count.

        Args:
            path: table of the chosen series.
            series_table: table of all series.
            fingerprint: fingerprint of the salt.

        Raises:
            InputError: one cannot be read, or was written with another salt.
        """
        if not path.exists():
            return cls(path)
        content = path.read_bytes()
        table = read_rows(path, "correct it, or name another file by --out", DELIMITERS)
        raise_errors(table.faults, f"{path}: correct these first")
        header = [name.strip() for name in table.header]
        positions = {name: header.index(name) for name in header}
        if "scan" not in positions:
            raise InputError(
                f"{path}: exists and has no column 'scan', so it is not a table of this command; "
                "name another file by --out"
            )
        listed = _read_series(series_table)
        salts = {one.get("salt", "") for one in listed} - {""}
        if salts - {fingerprint}:
            raise InputError(f"{path}: was written with another salt ({series_table}); {_SALT_FIX}")
        series = {
            (study, one.get(column, "")): one
            for one in listed
            for study in ("", one.get("study", ""))
            for column in ("scan", "series")
            if one.get(column)
        }
        rows = [EarlierRow(cells, positions) for cells in table.rows]
        return cls(path, header, rows, series, content, has_salt=bool(salts))

    def match(self, decisions: Sequence[Decision], listed: Path, start: Path) -> None:
        """Find the series of each row, by its path, its link or the table of all series.

        Args:
            decisions: all series.
            listed: folder that their paths start from.
            start: folder that paths in the table start from.

        Raises:
            InputError: a row has another pseudonym of its patient, and the salt is not known.
        """
        by_path: defaultdict[str, list[Decision]] = defaultdict(list)
        by_key: dict[tuple[str, str], Decision] = {}
        for one in sorted(decisions, key=lambda one: not one.is_chosen):
            by_path[Path(os.path.relpath(listed / one.path, start)).as_posix()].append(one)
            by_key.setdefault((one.record.study, one.record.key), one)
        for row in self.rows:
            found = by_path[row["scan"]]
            if not self.has_salt:
                self._check_patient(row, found)
            same = [one for one in found if row["study"] in ("", one.record.study)]
            known = self._listed(row)
            key = row["study"] or known.get("study", ""), row.link or known.get("series", "")
            row.match = same[0] if same else by_key.get(key)

    def _check_patient(self, row: EarlierRow, found: Sequence[Decision]) -> None:
        patients = [one.record.patient for one in found if one.is_chosen]
        if patients and row["patient"] not in ("", *patients):
            raise InputError(
                f"{self.path}: {row['scan']} has another pseudonym of its patient there: the table "
                f"was written with another salt, or its column was edited; {_SALT_FIX}"
            )

    def _listed(self, row: EarlierRow) -> dict[str, str]:
        """Return the row of all series that a row names, empty if there is none."""
        return self.series.get((row["study"], row.link or row["scan"]), {})

    def move(self, paths: Sequence[str | None]) -> None:
        """Replace paths of rows, and log how many.

        Args:
            paths: new path of each row, or None.
        """
        moved = 0
        for row, path in zip(self.rows, paths, strict=True):
            if path is not None and path != row["scan"]:
                row.cells[row.positions["scan"]] = path
                moved += 1
        if moved:
            self.is_changed = True
            log.info(
                "%s: %s the present path of the series; other cells are kept",
                self.path, plural(moved, "row gets", "rows get"),
            )  # fmt: skip

    def unmatched_series(self) -> list[dict[str, str]]:
        """Return the rows of all series that the table names, and this run does not have."""
        reason = {"reason": "in the table from an earlier run"}
        found = [self._listed(row) for row in self.rows if row.match is None]
        return [one | reason for one in found if one]

    def count_naming(self) -> int:
        """Return the number of rows whose paths name their patient."""
        return sum(
            not row.link
            and (
                row.match.record.names_patient
                if row.match
                else self._listed(row).get("names_patient") == "yes"
            )
            for row in self.rows
        )

    def log_differences(self, decisions: Sequence[Decision]) -> None:
        """Log how the rows differ from what is chosen now."""
        studies = {one.record.study: one.record.key for one in decisions if one.is_chosen}
        changed = lost = others = 0
        for row in self.rows:
            record = row.match and row.match.record
            key = record and studies.get(record.study)
            others += record is not None and row["patient"] not in ("", record.patient)
            changed += record is not None and key not in (None, record.key)
            lost += key is None
        if changed:
            log.info(
                "%s: %s row, although another series is preferred",
                self.path, plural(changed, "study keeps its", "studies keep their"),
            )  # fmt: skip
        if others:
            log.warning(
                "%s: %s another pseudonym of the patient than the export gives now: kept. Correct "
                "the column patient if the export is right",
                self.path, plural(others, "row has", "rows have"),
            )  # fmt: skip
        if lost:
            log.warning(
                "%s: %s not chosen now: kept",
                self.path, plural(lost, "row names a scan that is", "rows name scans that are"),
            )  # fmt: skip


def _read_series(path: Path) -> list[dict[str, str]]:
    """Return the rows of the table of all series; a missing or empty one has none."""
    if not path.exists() or not path.read_bytes().strip().count(b"\n"):
        return []
    table = read_rows(path, "delete it", DELIMITERS)
    raise_errors(table.faults, f"{path}: correct these first, or delete it")
    header = [name.strip() for name in table.header]
    return [dict(zip(header, map(str.strip, cells), strict=True)) for cells in table.rows]
