"""Scans of one's own, with a table that says whose they are and what they have."""

import logging
import re
from pathlib import Path

import pandas as pd

from multi_abnormality.data.catalogue import Catalogue, Source
from multi_abnormality.data.metadata_table import GROUPS, SERIES
from multi_abnormality.data.names import SPLITS, natural
from multi_abnormality.data.own_files import locate, strangers
from multi_abnormality.data.own_table import read_own_table, unread_columns
from multi_abnormality.data.rows import capped, told_lines
from multi_abnormality.data.splits import hold_out
from multi_abnormality.errors import InputError, raise_faults
from multi_abnormality.params_data import Data

log = logging.getLogger(__name__)

FEW = 10  # patients; what is learned of fewer may be anything that these have in common
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")


def own_source(table: Path) -> Source:
    """The layout that a table gives."""
    return Source(
        is_ct_rate=False,
        leave_out=f"by deleting their rows of {table}",
        lacking=f"{table}: has no scan of the {{split}} split, and so nothing to {{use}}; put "
        "some patients there",
    )


def read_own(root: Path, table: str, settings: Data) -> Catalogue:
    """The scans that a table below `root` names, with their labels.

    Raises:
        InputError: lists every fault of the table and of the files that it names, each with its
            way out.
    """
    path, folder = root / table, root / settings.scans
    source = own_source(path)
    if not path.is_file():
        raise InputError(
            f"{path}: is not there; bring it, or name another one as data.table in params.yaml"
        )
    if not folder.is_dir():
        raise InputError(
            f"{folder}: is no folder; bring it, or name the one that the table's paths start from "
            "as data.scans in params.yaml"
        )
    rows, faults = read_own_table(path, settings)
    volumes, scan_faults = _find_scans(rows, folder, path)
    faults += scan_faults
    if "patient_id" not in volumes:
        volumes["patient_id"] = volumes["name"]
    if not faults and settings.columns.split is None:
        volumes["split"] = _draw(volumes, settings)
    if not volumes.empty:
        faults += _likeness_faults(volumes, path) if settings.columns.patient else []
    if "split" in volumes and not volumes.empty:
        faults += _patient_faults(volumes[volumes["split"].isin(SPLITS)], path)
    if not faults:  # else what seems to be lacking may be what could not be read
        faults += source.split_faults(volumes["split"])
        faults += _label_faults(volumes, settings, path)
    raise_faults(faults, f"{path}: mend these first")
    volumes = volumes.sort_values("name", key=lambda names: names.map(natural))
    volumes = volumes.assign(scan_id=volumes["name"], reconstruction=1).reset_index(drop=True)
    volumes[SERIES] = pd.Series([None] * len(volumes), dtype=object)
    _tell(volumes, folder, path, settings)
    order = ["name", "split", "patient_id", "scan_id", "reconstruction", "path", *settings.names]
    return Catalogue(volumes[[*order, *GROUPS, SERIES]], settings.names, (), source)


def _find_scans(rows: pd.DataFrame, folder: Path, table: Path) -> tuple[pd.DataFrame, list[str]]:
    """The rows with name and path in the place of what the table says, and the faults."""
    if "scan" not in rows:
        return rows.assign(name="", path="")[:0], []
    found = {line: locate(cell, folder) for line, cell in rows["scan"].items() if cell}
    lost = [
        f"{table}, line {line}: {one.fault}" for line, one in found.items() if one.fault is not None
    ]
    volumes = rows.loc[list(found)].assign(
        name=[one.name for one in found.values()], path=[str(one.path) for one in found.values()]
    )
    first = volumes.reset_index(names="line").drop_duplicates("name").set_index("name")["line"]
    twice = [
        f"{table}, line {line}: {name} stands in line {first[name]} already; keep one row, and "
        "give two scans two names"
        for line, name in volumes.loc[volumes["name"].duplicated(), "name"].items()
    ]
    return volumes, capped(lost) + capped(twice)


def _draw(volumes: pd.DataFrame, settings: Data) -> list[str]:
    """A split by patient, each finding about as frequent in both parts."""
    count = volumes["patient_id"].nunique()
    if count < 2:
        return ["train"] * len(volumes)
    drawn = hold_out(volumes, settings.names, settings.valid_fraction, settings.split_seed)
    log.info(
        "data.columns.split is null: %d of %d patients make the valid split (data.valid_fraction "
        "%g, data.split_seed %d)",
        len(drawn), count, settings.valid_fraction, settings.split_seed,
    )  # fmt: skip
    return ["valid" if patient in drawn else "train" for patient in volumes["patient_id"]]


def _likeness_faults(volumes: pd.DataFrame, path: Path) -> list[str]:
    """A spreadsheet makes 7 of 007, and whoever types writes a-7 for A-7: one patient, or two?"""
    faults = []
    first: dict[str, tuple[str, int]] = {}
    for line, patient in volumes["patient_id"].drop_duplicates().items():
        plain = _ZEROS.sub("", " ".join(patient.split()).casefold())
        other, above = first.setdefault(plain, (patient, line))
        if other != patient:
            faults.append(
                f"{path}, lines {above}, {line}: the patients {other!r} and {patient!r} differ in "
                "case, spaces or leading zeros alone; write one patient's alike, and two people's "
                "less alike"
            )
    return capped(faults)


def _patient_faults(volumes: pd.DataFrame, path: Path) -> list[str]:
    """Checked whatever else is wrong: nothing is worse than scores on what was learned from."""
    faults = []
    for patient, rows in volumes.groupby("patient_id", sort=False):
        if rows["split"].nunique() > 1:
            faults.append(
                f"{path}, {told_lines(list(rows.index))}: patient {patient} is in both "
                "splits; put all of a patient's scans into one"
            )
    return capped(faults)


def _label_faults(volumes: pd.DataFrame, settings: Data, path: Path) -> list[str]:
    """Findings that nothing could be learned of; of those that can't be scored there is a word."""
    faults = []
    train = volumes[volumes["split"] == "train"]
    for finding in settings.names:
        if finding not in volumes:
            continue
        for value, there in ((1, train[finding].max() == 1), (0, train[finding].min() == 0)):
            if not there and len(train):
                faults.append(
                    f"{path}, column {finding!r}: no scan of the train split has {value}, so "
                    "nothing could be learned of it; add such scans or put some there (by a column "
                    "data.columns.split), or take it out of data.findings"
                )
    return faults


def _tell(volumes: pd.DataFrame, folder: Path, path: Path, settings: Data) -> None:
    """What is no fault, and a user should know."""
    if settings.columns.patient is None:
        log.warning(
            "data.columns.patient is null: each of %d scans counts as a patient of its own. Are "
            "there two of one patient, one may be learned from and the other scored, and every "
            "score is too good", len(volumes),
        )  # fmt: skip
    if unread := unread_columns(path, settings):
        log.warning("%s: these columns are not read: %s", path, ", ".join(map(repr, unread)))
    if others := list(strangers(folder, [Path(one) for one in volumes["path"]])):
        log.warning(
            "%s: %d scans have no row in %s and are left out: %s",
            folder, len(others), path, ", ".join(capped([str(one) for one in others])),
        )  # fmt: skip
    train = volumes[volumes["split"] == "train"]
    patients = {
        finding: train.loc[train[finding] == 1, "patient_id"].nunique()
        for finding in settings.names
    }
    if few := [f"{finding!r} ({count})" for finding, count in patients.items() if count < FEW]:
        log.warning(
            "%s: fewer than %d patients of the train split have %s: little can be learned of what "
            "is so rare", path, FEW, ", ".join(few),
        )  # fmt: skip
    valid = volumes[volumes["split"] == "valid"]
    for finding in settings.names:
        if valid[finding].nunique() < 2:
            log.warning(
                "%s, column %r: all %d scans of the valid split have %d, so some of its scores are "
                "undefined and left out of the means", path, finding, len(valid),
                valid[finding].iloc[0],
            )  # fmt: skip
