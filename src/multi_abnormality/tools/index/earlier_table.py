"""The tables of an earlier run: which series each row names, and which salt they are under."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from multi_abnormality.tools.index.series_choice import Decision
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError, plural, raise_errors
from multi_abnormality.utils.strict_csv import Table, read_rows

DELIMITERS = ",;\t"
_LINK = re.compile(r"(R[0-9a-f]{16})(?:\.zip)?")  # the name that scan_paths.link_series gives
_SALT_FIX = "name that salt by --salt, or another file by --out"


@dataclass
class EarlierTable:
    """Table of chosen series, with labels, and the table of all series beside it."""

    path: Path
    header: list[str] = field(default_factory=list)
    cells: list[list[str]] = field(default_factory=list)
    rows: list[dict[str, str]] = field(default_factory=list)  # cells by column
    series: dict[str, dict[str, str]] = field(default_factory=dict)  # rows of all series, by path
    matches: list[Decision | None] = field(default_factory=list)  # what the rows name
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
        rows = _by_column(table)
        if "scan" not in rows[0]:
            raise InputError(
                f"{path}: exists and has no column 'scan', so it is not a table of this command; "
                "name another file by --out"
            )
        series = {}
        if series_table.exists() and series_table.read_bytes().strip().count(b"\n"):
            found = read_rows(series_table, "delete it", DELIMITERS)
            raise_errors(found.faults, f"{series_table}: correct these first, or delete it")
            series = {row.get("scan", ""): row for row in _by_column(found)}
        salts = {row.get("salt") or "" for row in series.values()} - {""}
        if salts - {fingerprint}:
            raise InputError(f"{path}: was written with another salt ({series_table}); {_SALT_FIX}")
        return cls(
            path, table.header, table.rows, rows, series, content=content, has_salt=bool(salts)
        )

    def match(
        self, decisions: Sequence[Decision], listed: Path, start: Path, folders: Iterable[Path]
    ) -> None:
        """Find the series of each row, by its path, its link or the table of all series.

        Args:
            decisions: all series.
            listed: folder that their paths start from.
            start: folder that paths in the table start from.
            folders: folders that paths in the table may have started from.

        Raises:
            InputError: a row has another pseudonym of its patient, and the salt is not known.
        """
        by_path: dict[str, list[Decision]] = {}
        by_key: dict[tuple[str, str], Decision] = {}
        for one in sorted(decisions, key=lambda one: not one.is_chosen):
            by_key.setdefault((one.record.study, one.record.key), one)
            whole = listed / one.path
            for path in dict.fromkeys(_relative(whole, folder) for folder in (start, *folders)):
                by_path.setdefault(path, []).append(one)
        self.matches = []
        for row in self.rows:
            scan, study = row["scan"], row.get("study", "")
            found = by_path.get(scan, [])
            here = [one for one in found if _relative(listed / one.path, start) == scan]
            if not self.has_salt:
                self._check_patient(row, here)
            same = [one for one in (*here, *found) if study in ("", one.record.study)]
            known = by_key.get((study, self._key(scan)))
            self.matches.append(same[0] if same else known)

    def _key(self, scan: str) -> str:
        link = _LINK.fullmatch(Path(scan).name)
        return link[1] if link else self.series.get(scan, {}).get("series", "")

    def _check_patient(self, row: Mapping[str, str], found: Sequence[Decision]) -> None:
        patients = [one.record.patient for one in found if one.is_chosen]
        if patients and row.get("patient", patients[0]) not in patients:
            raise InputError(
                f"{self.path}: {row['scan']} has another pseudonym of its patient there: the table "
                f"was written with another salt, or its column was edited; {_SALT_FIX}"
            )

    def move(self, paths: Sequence[str | None]) -> None:
        """Replace paths of rows, and log how many.

        Args:
            paths: new path of each row, or None.
        """
        position = [name.strip() for name in self.header].index("scan") if self.rows else 0
        moved = 0
        for row, cells, path in zip(self.rows, self.cells, paths, strict=True):
            if path is not None and path != row["scan"]:
                row["scan"] = cells[position] = path
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
        return [
            self.series[row["scan"]] | reason
            for row, match in zip(self.rows, self.matches, strict=True)
            if match is None and row["scan"] in self.series
        ]

    def count_naming(self) -> int:
        """Return the number of rows whose paths name their patient."""
        return sum(
            not _LINK.fullmatch(Path(row["scan"]).name)
            and (
                self.series.get(row["scan"], {}).get("names_patient") == "yes"
                if match is None
                else match.record.names_patient
            )
            for row, match in zip(self.rows, self.matches, strict=True)
        )

    def log_differences(self, decisions: Sequence[Decision]) -> None:
        """Log how the rows differ from what is chosen now."""
        studies = {one.record.study: one.record.key for one in decisions if one.is_chosen}
        changed = lost = others = 0
        for row, match in zip(self.rows, self.matches, strict=True):
            others += match is not None and row.get("patient") != match.record.patient
            key = match and studies.get(match.record.study)
            changed += match is not None and key not in (None, match.record.key)
            lost += match is None or key is None
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


def _by_column(table: Table) -> list[dict[str, str]]:
    header = [name.strip() for name in table.header]
    return [dict(zip(header, map(str.strip, cells), strict=True)) for cells in table.rows]


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
