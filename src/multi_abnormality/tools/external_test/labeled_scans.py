"""Scans of an external test set with their labels."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from multi_abnormality.config.schema import Data
from multi_abnormality.data.catalog.custom import find_table_scans, near_duplicate_ids
from multi_abnormality.data.catalog.custom_table import CustomTable, read_custom_table
from multi_abnormality.data.catalog.identifier_spelling import canonical, find_similar, quote
from multi_abnormality.data.catalog.label_checks import FEW, is_labeled
from multi_abnormality.data.catalog.volume_id import natural_sort_key
from multi_abnormality.data.io.scan_sources import ScanSource
from multi_abnormality.inference.scan_id import NamedScan
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError, first_few, plural, raise_errors
from multi_abnormality.utils.strict_csv import format_ranges, truncate


class Part(NamedTuple):
    """Rows to recalibrate on: those with a word in a column."""

    column: str | None
    word: str


@dataclass(frozen=True)
class LabeledTable:
    """Table of an external test set.

    Attributes:
        path: path of the table.
        unit: what its lines are called.
        folder: folder that its paths start from.
        rows: one row per scan in natural order: line, name, path, patient_id, part (if there is one
            to recalibrate on), the findings, and the columns of GROUPS.
        findings: findings to score, in the model's order.
        lacking: findings of the model that the table lacks.
        part: word of the rows to recalibrate on, or None.
        has_patients: whether a column names the patients; otherwise each scan is one.
    """

    path: Path
    unit: str
    folder: Path
    rows: pd.DataFrame
    findings: tuple[str, ...]
    lacking: tuple[str, ...]
    part: str | None
    has_patients: bool

    @classmethod
    def read(
        cls, path: Path, folder: Path, settings: Data, part: Part | None, skip_missing: bool
    ) -> "LabeledTable":
        """Read a table and find its scans, without opening any.

        Args:
            path: .csv or .xlsx file.
            folder: folder that its paths start from.
            settings: data section without a split column; its findings are the model's.
            part: rows to recalibrate on; None: none.
            skip_missing: whether findings that the table lacks are left out.

        Raises:
            InputError: lists every error in the table and its paths.
        """
        if not path.is_file():
            raise InputError(f"{path}: does not exist; name the table by --table")
        if not folder.is_dir():
            raise InputError(
                f"{folder}: is not a folder; name the one that the table's paths start from by "
                "--scans"
            )
        column = part.column if part else None
        content = read_custom_table(path, settings, column, by_options=True)
        lacking = tuple(one for one in settings.names if one not in content.rows)
        if lacking and len(content.rows):
            _check_lacking(content, lacking, settings.names, skip_missing)
            names = tuple(one for one in settings.names if one not in lacking)
            settings = settings.model_copy(update={"findings": names})
            content = read_custom_table(path, settings, column, by_options=True)
        volumes, errors = find_table_scans(content.rows, folder, content.name)
        errors = content.errors + errors
        if part and len(content.rows) and "part" not in content.rows:
            named = f"column {column!r}" if column else "split column"
            errors.append(
                f"{content.name.header}: has no {named} with the part of "
                "--recalibrate-on; name another one by --column split=NAME"
            )
        has_patients = "patient_id" in content.rows
        if has_patients:
            errors += near_duplicate_ids(content.rows, content.name)
        raise_errors(errors, f"{path}: correct these first")
        if volumes.empty:
            raise InputError(f"{path}: lists no scan")
        if not has_patients:
            volumes = volumes.assign(patient_id=volumes["name"])
            log.warning(
                "%s: each of %s counts as a patient of its own, and training patients are "
                "not recognized by their ids, only by their scans", path,
                plural(len(volumes), "scan", "scans"),
            )  # fmt: skip
        if unread := [repr(one) for one in content.unread if one != column]:
            log.info("%s: these columns are not read: %s", path, first_few(unread, 20))
        volumes = volumes.sort_values("name", key=lambda names: names.map(natural_sort_key))
        rows = volumes.reset_index(names="line")
        word = part.word if part else None
        table = cls(
            path, content.name.unit, folder, rows, settings.names, lacking, word, has_patients
        )
        table._check_parts()
        return table

    @property
    def count(self) -> int:
        """Number of scans."""
        return len(self.rows)

    def named_scans(self) -> list[NamedScan]:
        """Return the scans by their names, not opened yet."""
        pairs = zip(self.rows["name"], self.rows["path"], strict=True)
        return [NamedScan(name, ScanSource(Path(path))) for name, path in pairs]

    def lines_of(self, patients: Collection[str]) -> str:
        """Name the lines of some patients."""
        lines = self.rows.loc[self.rows["patient_id"].isin(patients), "line"]
        return format_ranges(lines, self.unit)

    def labels(self, rows: pd.DataFrame) -> np.ndarray:
        """Return the labels of some rows: (N, F), 0, 1 or NaN for a missing one."""
        labels: np.ndarray = rows[list(self.findings)].to_numpy()
        return labels

    def split(self, names: Collection[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the rows to recalibrate on and those to score, of the scans with these names.

        Raises:
            InputError: the first are too few, or the second have no label.
        """
        read = self.rows[self.rows["name"].isin(names)]
        is_part = read["part"] == self.part if self.part is not None else read["name"].isna()
        chosen, scored = read[is_part], read[~is_part]
        if not is_labeled(self.labels(scored)).any():
            raise InputError(
                f"{self.path}: no scan to score has a label of {', '.join(self.findings)}; enter "
                "some, or name the words of its cells by data.values (--params)"
            )
        if self.part is not None:
            self._check_size(chosen)
        return chosen, scored

    def _check_parts(self) -> None:
        if self.part is None:
            self.split(self.rows["name"])
            return
        words = self.rows["part"].unique().tolist()
        if self.part not in words:
            known = first_few([*map(repr, sorted(words))], 20)
            raise InputError(
                f"{self.path}: no row of the split column has {self.part!r} (--recalibrate-on), "
                f"but {known}"
            )
        alike = canonical(self.part)
        similar = [word for word in words if word != self.part and canonical(word) == alike]
        if similar:
            raise InputError(
                f"{self.path}: some rows have {self.part!r} (--recalibrate-on), others "
                f"{first_few([*map(repr, similar)], 5)}; write them alike"
            )
        is_part = self.rows["part"] == self.part
        in_part = is_part.groupby(self.rows["patient_id"], sort=False).mean()
        both = in_part.index[(in_part > 0) & (in_part < 1)].tolist()
        raise_errors(
            truncate(
                [
                    f"patient {patient} has scans in {self.part!r} and others; put all of a "
                    "patient's scans into one part"
                    for patient in both
                ]
            ),
            f"{self.path}: correct these first",
        )
        self.split(self.rows["name"])

    def _check_size(self, chosen: pd.DataFrame) -> None:
        """Check that a part is large enough to recalibrate on."""
        labels, patients = self.labels(chosen), chosen["patient_id"].nunique()
        has_both = (labels == 1).any(axis=0) & (labels == 0).any(axis=0)
        if patients < FEW or not has_both.any():
            why = "no finding with and without it" if patients >= FEW else f"at least {FEW} needed"
            raise InputError(
                f"{self.path}: the part {self.part!r} is too small to recalibrate on: "
                f"{plural(patients, 'patient', 'patients')} with readable scans, {why}; put more "
                "patients there, or leave out --recalibrate-on"
            )


def _check_lacking(
    content: CustomTable, lacking: tuple[str, ...], findings: tuple[str, ...], skip_missing: bool
) -> None:
    """Refuse a table without columns for some findings of the model, unless asked to skip them."""
    similar = {one: find_similar(one, content.unread) for one in lacking}
    names = [
        quote(one) + (f" (is it {quote(other)}?)" if other else "")
        for one, other in similar.items()
    ]
    title = f"{content.name.header}: has no column for {first_few(names, 20)}"
    if len(lacking) == len(findings):
        raise InputError(
            f"{title}: none of the model's findings. The name of a finding's column is the "
            "finding's; rename the columns"
        )
    if not skip_missing:
        raise InputError(
            f"{title}, which the model predicts; rename one, or score without them by "
            "--skip-missing-findings"
        )
    log.warning("%s: not scored", title)
