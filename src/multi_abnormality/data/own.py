"""Scans of one's own, with a table that says whose they are and what they have."""

import logging
from pathlib import Path

import pandas as pd

from multi_abnormality.data.catalogue import Catalogue, Source
from multi_abnormality.data.io.reader_registry import suffix_of
from multi_abnormality.data.io.scan_sources import resolve_scan
from multi_abnormality.data.metadata_table import GROUPS, SERIES
from multi_abnormality.data.names import SPLITS, natural
from multi_abnormality.data.own_files import locate, strangers
from multi_abnormality.data.own_table import read_own_table
from multi_abnormality.data.rows import capped, format_lines
from multi_abnormality.data.spelling import canonical, has_invisible, quote, readings
from multi_abnormality.data.splits import hold_out
from multi_abnormality.errors import InputError, first_few, raise_faults
from multi_abnormality.params_data import Data

log = logging.getLogger(__name__)

FEW = 10  # patients; what is learned of fewer may be anything that these have in common


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
            fix.
    """
    path, folder = root / table, root / settings.scans
    source = own_source(path)
    if not path.exists():
        raise InputError(
            f"{path}: is not there; bring it, or name another one as data.table in params.yaml"
        )
    if not folder.is_dir():
        raise InputError(
            f"{folder}: is no folder; bring it, or name the one that the table's paths start from "
            "as data.scans in params.yaml"
        )
    rows, unread, faults = read_own_table(path, settings)
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
    raise_faults(faults, f"{path}: correct these first")
    volumes = volumes.sort_values("name", key=lambda names: names.map(natural))
    volumes = volumes.assign(scan_id=volumes["name"], reconstruction=1).reset_index(drop=True)
    volumes[SERIES] = pd.Series([None] * len(volumes), dtype=object)
    if unread:
        log.warning("%s: these columns are not read: %s", path, first_few([*map(repr, unread)], 20))
    _warn(volumes, folder, path, settings)
    order = ["name", "split", "patient_id", "scan_id", "reconstruction", "path", *settings.names]
    return Catalogue(volumes[[*order, *GROUPS, SERIES]], settings.names, (), source)


def _find_scans(rows: pd.DataFrame, folder: Path, table: Path) -> tuple[pd.DataFrame, list[str]]:
    """The rows with name and path in place of the table's cell, and the faults."""
    if "scan" not in rows:
        return rows.assign(name="", path="")[:0], []
    found = {line: locate(cell, folder) for line, cell in rows["scan"].items()
             if cell and not has_invisible(cell)}  # fmt: skip
    lost = [
        f"{table}, line {line}: {one.fault}" for line, one in found.items() if one.fault is not None
    ]
    volumes = rows.loc[list(found)].assign(
        name=[one.name for one in found.values()], path=[str(one.path) for one in found.values()]
    )
    first: dict[str | tuple[int, int], tuple[int, str]] = {}
    twice = []
    for line, one in found.items():
        if one.fault is not None:
            continue
        # A symlinked folder, or a disk that ignores case, gives one file two names.
        about = one.path.stat()
        known = [first.setdefault(key, (line, one.name))
                 for key in (one.name, (about.st_dev, about.st_ino))]  # fmt: skip
        above, name = min(known)
        if above != line:
            same = "" if name == one.name else f", as {name}"
            twice.append(
                f"{table}, line {line}: {one.name} stands in line {above} already{same}; keep one "
                "row, and give two scans two names"
            )
    series = _series_faults({line: one.path for line, one in found.items() if not one.fault}, table)
    return volumes, capped(lost) + capped(twice) + series


def _series_faults(paths: dict[int, Path], table: Path) -> list[str]:
    """Rows that mean one DICOM series by different paths: its folder, one above, or its files.

    Headers are read only where two rows may do so.
    """
    folders: dict[Path, list[int]] = {}
    for line, path in paths.items():
        if path.is_dir() or not (suffix_of(path) or path.suffix.lower() == ".zip"):
            folders.setdefault(path if path.is_dir() else path.parent, []).append(line)
    faults = []
    for folder, lines in folders.items():
        above = [line for parent in folder.parents for line in folders.get(parent, [])]
        owner: dict[Path, int] = {}
        for line in sorted({*lines, *above}) if len(lines) + len(above) > 1 else []:
            try:
                files = resolve_scan(paths[line]).files
            except (InputError, OSError):
                continue  # preprocess reports it
            if other := next((owner[file] for file in files if file in owner), None):
                faults.append(
                    f"{table}, lines {other}, {line}: {paths[other]} and {paths[line]} are one "
                    "DICOM series; keep one row for each series"
                )
            owner |= dict.fromkeys(files, line)
    return capped(sorted(set(faults)))


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
    """Refuse ids that may be one patient's: spreadsheets make 7 of 007, 1.0 of 1, 1.000 of 1000."""
    faults = []
    first: dict[str, tuple[str, int]] = {}
    for line, patient in volumes["patient_id"].drop_duplicates().items():
        same = canonical(patient)
        for reading in sorted(readings(patient), key=lambda one: one != same):
            other, above = first.setdefault(reading, (patient, line))
            if other == patient:
                continue
            differ = (
                "differ in case, spaces, dashes, the form of a number, invisible characters or "
                "letters that look alike, and in nothing else"
                if canonical(other) == same
                else "may be one number, with a separator of thousands or of decimals"
            )
            faults.append(
                f"{path}, lines {above}, {line}: the patients {quote(other)} and {quote(patient)} "
                f"{differ}; write one patient's the same way, and those of two patients less alike"
            )
            break
    return capped(faults)


def _patient_faults(volumes: pd.DataFrame, path: Path) -> list[str]:
    """Checked whatever else is wrong: nothing is worse than scores on what was learned from."""
    faults = []
    for patient, rows in volumes.groupby("patient_id", sort=False):
        if rows["split"].nunique() > 1:
            faults.append(
                f"{path}, {format_lines(list(rows.index))}: patient {patient} is in both "
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


def _warn(volumes: pd.DataFrame, folder: Path, path: Path, settings: Data) -> None:
    """Log what is not an error, but affects what a model can learn or how it is scored."""
    if settings.columns.patient is None:
        log.warning(
            "data.columns.patient is null: each of %d scans counts as a patient of its own. Are "
            "there two of one patient, one may be learned from and the other scored, and every "
            "score is too good", len(volumes),
        )  # fmt: skip
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
