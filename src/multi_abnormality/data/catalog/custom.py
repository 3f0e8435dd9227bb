"""Custom datasets: scans with a table of patients, splits and labels."""

import logging
from pathlib import Path

import pandas as pd

from multi_abnormality.config.schema import Data
from multi_abnormality.data.catalog.catalog import GROUPS, SERIES, Catalog, DatasetLayout
from multi_abnormality.data.catalog.custom_files import locate, unlisted_scans
from multi_abnormality.data.catalog.custom_table import read_custom_table
from multi_abnormality.data.catalog.identifier_spelling import (
    canonical,
    has_invisible,
    is_rounded,
    quote,
    readings,
)
from multi_abnormality.data.catalog.single_class_findings import lacks_a_class
from multi_abnormality.data.catalog.splits import hold_out
from multi_abnormality.data.catalog.volume_id import SPLITS, VAL, natural_sort_key
from multi_abnormality.data.io.reader_registry import suffix_of
from multi_abnormality.data.io.scan_sources import resolve_scan
from multi_abnormality.utils.errors import InputError, first_few, plural, raise_errors
from multi_abnormality.utils.strict_csv import TableName, truncate

log = logging.getLogger(__name__)

MIN_PATIENTS = 10  # with a finding; from fewer, a model may learn other common traits


def custom_layout(table: Path, needs_test: bool = True) -> DatasetLayout:
    """Return the layout of a dataset that a table describes."""
    return DatasetLayout(
        is_ct_rate=False,
        needs_test=needs_test,
        leave_out=f"by deleting their rows of {table}",
        missing_split=f"{table}: has no scan of the {{split}} split, and so nothing to {{use}}; "
        "put some patients there",
    )


def read_custom(root: Path, table: str, settings: Data) -> Catalog:
    """Read the scans, with their labels, that a table below `root` lists.

    Raises:
        InputError: lists every error in the table and its files, each with its fix.
    """
    path, folder = root / table, root / settings.scans
    source = custom_layout(path, needs_test=settings.folds is None)
    if not path.exists():
        raise InputError(
            f"{path}: does not exist; copy it there, or name another one as data.table in "
            "params.yaml"
        )
    if not folder.is_dir():
        raise InputError(
            f"{folder}: is not a folder; copy it there, or set data.scans in params.yaml to the "
            "folder that the table's paths start from"
        )
    content = read_custom_table(path, settings)
    rows, name, errors = content.rows, content.name, content.errors
    volumes, scan_errors = find_table_scans(rows, folder, name)
    errors += scan_errors
    if "patient_id" in rows:
        errors += near_duplicate_ids(rows, name)
    else:
        volumes["patient_id"] = volumes["name"]
    if {"patient_id", "split"}.issubset(rows):
        errors += _patient_errors(rows[rows["split"] != ""], name)
    if settings.folds is not None and "split" in rows:
        errors += _val_errors(rows, settings, name)
    if not errors:
        volumes["split"] = _complete_split(volumes, settings)
    if not errors:  # otherwise what seems to be missing may only be unreadable
        errors += source.split_errors(volumes["split"])
        errors += _label_errors(volumes, settings, name)
    raise_errors(errors, f"{path}: correct these first")
    volumes = volumes.sort_values("name", key=lambda names: names.map(natural_sort_key))
    volumes = volumes.assign(scan_id=volumes["name"], reconstruction=1).reset_index(drop=True)
    volumes[SERIES] = pd.Series([None] * len(volumes), dtype=object)
    if content.unread:
        unread = first_few([*map(repr, content.unread)], 20)
        log.warning("%s: these columns are not read: %s", name, unread)
    _warn(volumes, folder, name, settings)
    order = ["name", "split", "patient_id", "scan_id", "reconstruction", "path", *settings.names]
    return Catalog(volumes[[*order, *GROUPS, SERIES]], settings.names, (), source)


def find_table_scans(
    rows: pd.DataFrame, folder: Path, table: TableName
) -> tuple[pd.DataFrame, list[str]]:
    """Replace the table's scan cells by name and path; also return the errors."""
    if "scan" not in rows:
        return rows.assign(name="", path="")[:0], []
    found: dict[int, tuple[str, Path]] = {}
    errors = []
    for line, cell in rows["scan"].items():
        if not cell or has_invisible(cell) or is_rounded(cell):
            continue  # the table's reader reports it
        try:
            found[line] = locate(cell, folder)
        except InputError as error:
            errors.append(f"{table.at([line])}: {error}")
    volumes = rows.loc[list(found)].assign(
        name=[name for name, _ in found.values()], path=[str(path) for _, path in found.values()]
    )
    repeated = _repeated_scans(found, table)
    series = _series_errors({line: path for line, (_, path) in found.items()}, table)
    return volumes, truncate(errors) + repeated + series


def _repeated_scans(found: dict[int, tuple[str, Path]], table: TableName) -> list[str]:
    """Return errors for rows with the name or the file of a row above.

    A symlinked folder, or a disk that ignores case, gives one file two names.
    """
    errors = []
    first: dict[str | tuple[int, int], tuple[int, str]] = {}
    for line, (name, path) in found.items():
        stat = path.stat()
        keys = (name, (stat.st_dev, stat.st_ino))
        above, other = min(first.setdefault(key, (line, name)) for key in keys)
        if above != line:
            same = "" if other == name else f", as {other}"
            errors.append(
                f"{table.at([line])}: {name} is in {table.unit} {above} already{same}; keep one "
                "row, and give two scans two names"
            )
    return truncate(errors)


def _series_errors(paths: dict[int, Path], table: TableName) -> list[str]:
    """Return errors for rows that name one DICOM series by different paths.

    These may be its folder, a parent folder, or its files. Headers are read only where two rows
    may name the same series.
    """
    folders: dict[Path, list[int]] = {}
    for line, path in paths.items():
        if path.is_dir() or not (suffix_of(path) or path.suffix.lower() == ".zip"):
            folders.setdefault(path if path.is_dir() else path.parent, []).append(line)
    errors = []
    for folder, lines in folders.items():
        above = [line for parent in folder.parents for line in folders.get(parent, [])]
        owner: dict[Path, int] = {}
        for line in sorted({*lines, *above}) if len(lines) + len(above) > 1 else []:
            try:
                files = resolve_scan(paths[line]).files
            except (InputError, OSError):
                continue  # preprocess reports it
            if other := next((owner[file] for file in files if file in owner), None):
                errors.append(
                    f"{table.at([other, line])}: {paths[other]} and {paths[line]} are one "
                    "DICOM series; keep one row for each series"
                )
            owner |= dict.fromkeys(files, line)
    return truncate(sorted(set(errors)))


def _complete_split(volumes: pd.DataFrame, settings: Data) -> pd.Series:
    """Return each volume's split: its patient's in the table, or one that is drawn by patient.

    Each finding is about as frequent in both parts of the patients that are drawn. With folds,
    which hold out every patient once, these are all train.
    """
    given = volumes.get("split", pd.Series("", volumes.index))
    split_of = dict(zip(volumes["patient_id"][given != ""], given[given != ""], strict=True))
    without = volumes[~volumes["patient_id"].isin(split_of)]
    count = without["patient_id"].nunique()
    column = settings.columns.split
    why = "data.columns.split is null" if column is None else f"column {column!r} has missing ones"
    drawn: set[str] = set()
    if count > 1 and settings.folds is None:
        drawn = hold_out(without, settings.names, settings.test_fraction, settings.split_seed)
        log.info(
            "%s: the test split has %d of %s (data.test_fraction %g, data.split_seed %d)",
            why, len(drawn), plural(count, "patient", "patients"),
            settings.test_fraction, settings.split_seed,
        )  # fmt: skip
    return volumes["patient_id"].map(
        lambda patient: split_of.get(patient, "test" if patient in drawn else "train")
    )


def _val_errors(rows: pd.DataFrame, settings: Data, table: TableName) -> list[str]:
    lines = rows.index[rows["split"] == VAL].tolist()
    if not lines:
        return []
    return [
        f"{table.at(lines)}, column {settings.columns.split!r}: names val scans, but with "
        "data.folds the val part is drawn in each fold; set data.folds to null, or put the words "
        "of data.split_values.val into data.split_values.train"
    ]


def near_duplicate_ids(volumes: pd.DataFrame, table: TableName) -> list[str]:
    """Return errors for ids that may be one patient's: spreadsheets turn 007 into 7, 1 into 1.0."""
    errors = []
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
            errors.append(
                f"{table.at([above, line])}: the patients {quote(other)} and {quote(patient)} "
                f"{differ}; write one patient's the same way, and those of two patients less alike"
            )
            break
    return truncate(errors)


def _patient_errors(volumes: pd.DataFrame, table: TableName) -> list[str]:
    """Return errors for patients in two splits. Leakage is reported whatever else is wrong."""
    errors = []
    for patient, rows in volumes[volumes["patient_id"] != ""].groupby("patient_id", sort=False):
        splits = rows["split"].unique().tolist()
        if len(splits) > 1:
            errors.append(
                f"{table.at(list(rows.index))}: patient {patient} is in {' and '.join(splits)}; "
                "put all of a patient's scans into one split"
            )
    return truncate(errors)


def _label_errors(volumes: pd.DataFrame, settings: Data, table: TableName) -> list[str]:
    """Return errors if a split has no label at all, or train no finding of both classes.

    _warn logs single findings.
    """
    if not set(settings.names).issubset(volumes):
        return []
    errors = []
    for split in (*SPLITS, VAL):
        rows = volumes.loc[volumes["split"] == split, list(settings.names)]
        if len(rows) and rows.isna().all(axis=None):
            errors.append(
                f"{table}: no scan of the {split} split has a label of any finding; add some, or "
                "check data.values and data.uncertain in params.yaml"
            )
    train = volumes.loc[volumes["split"] == "train", list(settings.names)].to_numpy()
    if not errors and len(train) and lacks_a_class(train).all():
        errors.append(
            f"{table}: no finding has both a positive and a negative scan in the train split, so "
            "none can be learned; add such scans, move some to train (by a column "
            "data.columns.split), or check data.values in params.yaml"
        )
    return errors


def _warn(volumes: pd.DataFrame, folder: Path, table: TableName, settings: Data) -> None:
    """Log what is not an error, but affects what a model can learn or how it is scored."""
    if settings.columns.patient is None:
        log.warning(
            "data.columns.patient is null: each of %s counts as a patient of its own. If a "
            "patient has several scans, they may land in both train and test and inflate every "
            "score", plural(len(volumes), "scan", "scans"),
        )  # fmt: skip
    if others := list(unlisted_scans(folder, [Path(one) for one in volumes["path"]])):
        log.warning(
            "%s: %s without a row in %s, left out: %s",
            folder, plural(len(others), "scan", "scans"), table,
            ", ".join(truncate([str(one) for one in others])),
        )  # fmt: skip
    labels = volumes[list(settings.names)]
    if missing := int(labels.isna().sum().sum()):
        empty = int(labels.isna().all(axis=1).sum())
        log.warning(
            "%s: missing labels are left out of the loss and the scores: %d of %d%s",
            table, missing, labels.size,
            f"; scans without any label: {empty} of {len(labels)}" if empty else "",
        )  # fmt: skip
    train = volumes[volumes["split"] == "train"]
    patients = {
        finding: train.loc[train[finding] == 1, "patient_id"].nunique()
        for finding in settings.names
        if train[finding].notna().any()
    }
    if rare := [
        f"{finding!r} ({count})" for finding, count in patients.items() if 0 < count < MIN_PATIENTS
    ]:
        log.warning(
            "%s: fewer than %d patients of the train split have %s: too few to learn these "
            "findings well", table, MIN_PATIENTS, ", ".join(rare),
        )  # fmt: skip
    if unknown := [repr(finding) for finding in settings.names if finding not in patients]:
        log.warning(
            "%s: no scan of the train split has a label of %s: neither trained nor scored",
            table, ", ".join(unknown),
        )  # fmt: skip
    for finding in patients:
        labels = train[finding].dropna()
        if labels.nunique() < 2:
            log.warning(
                "%s, column %r: no scan of the train split has %d: neither trained nor scored. Add "
                "such scans, move some to train (by a column data.columns.split), or remove it "
                "from data.findings", table, finding, 1 - labels.iloc[0],
            )  # fmt: skip
    test = volumes[volumes["split"] == "test"]
    for finding in patients if len(test) else ():
        known = test[finding].dropna()
        if known.empty:
            log.warning(
                "%s, column %r: no scan of the test split has a label, so it is not scored, and "
                "left out of all means", table, finding,
            )  # fmt: skip
        elif known.nunique() < 2:
            value = known.iloc[0]
            log.warning(
                "%s, column %r: every labelled scan of the test split has %d, so its AUROC %s",
                table, finding, value,
                "is undefined and left out of the mean" if value else
                "and average precision are undefined and left out of the means, while its F1, "
                "precision and recall count as 0, as in the challenge",
            )  # fmt: skip
