"""CT-RATE's files: volumes, exclusion lists, and a strict reader of its tables.

Nothing is guessed, and all errors are reported at once.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.data.catalog.catalog import GROUPS, SERIES
from multi_abnormality.data.catalog.identifier_spelling import find_similar, quote
from multi_abnormality.data.catalog.placeholders import SUFFIX as PLACEHOLDER_SUFFIX
from multi_abnormality.data.catalog.placeholders import is_placeholder
from multi_abnormality.data.catalog.text_table import (
    LABELS,
    cell_errors,
    check_label,
    missing_column,
    read_text_table,
)
from multi_abnormality.data.catalog.volume_id import CT_RATE_SPLITS, VolumeName
from multi_abnormality.data.io.scan_sources import walk
from multi_abnormality.data.io.series_metadata import COLUMNS, Series
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.strict_csv import MOST_FAULTS, format_lines, truncate

NAME_COLUMN = "VolumeName"  # of label tables and of tables of metadata
# Other folders hold CT-RATE's segmentations, whose names are those of the volumes.
_PREFIX_OF_FOLDER: dict[tuple[str, ...], str] = {
    ("dataset", f"{prefix}{version}"): prefix
    for prefix in CT_RATE_SPLITS.values()
    for version in ("_fixed", "")
}
_VOLUME_SUFFIXES = (".nii", ".nii.gz", f".nii.gz{PLACEHOLDER_SUFFIX}")
_EXCLUSION_NAMES = {f"no_chest_{prefix}.txt" for prefix in CT_RATE_SPLITS.values()}
_FIX = "fetch it again"

log = logging.getLogger(__name__)


@dataclass
class Files:
    """Volumes and exclusion lists below a root, and errors in the volumes' names.

    The path of a deleted volume is that of its placeholder.
    """

    volumes: dict[VolumeName, Path] = field(default_factory=dict)
    exclusions: list[Path] = field(default_factory=list)
    misnamed: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        return truncate(sorted(self.misnamed)) + truncate(sorted(self.twice))


def find_files(root: Path) -> Files:
    """Walk the root once. Symbolic links are followed: scans are often on another disk."""
    files = Files()
    for folder, _, file_names in walk(root) if root.is_dir() else ():
        prefix = _PREFIX_OF_FOLDER.get(folder.relative_to(root).parts[:2])
        for file_name in file_names:
            path = folder / file_name
            if file_name in _EXCLUSION_NAMES:
                files.exclusions.append(path)
            elif is_placeholder(path) and path.stem in file_names:
                continue
            elif prefix and file_name.endswith(_VOLUME_SUFFIXES):
                _add_volume(files, path, prefix)
    files.exclusions.sort()
    return files


def _add_volume(files: Files, path: Path, prefix: str) -> None:
    try:
        name = VolumeName.parse(path.name.removesuffix(PLACEHOLDER_SUFFIX))
    except InputError as error:
        files.misnamed.append(f"{path}: {error}; rename or remove it")
        return
    if name.prefix != prefix:
        files.misnamed.append(f"{path}: is not in CT-RATE's {prefix} split; move it")
    elif name in files.volumes:
        first, second = sorted([files.volumes[name], path])
        files.twice.append(f"{first} and {second} are the same volume; remove one")
    else:
        files.volumes[name] = path


def read_exclusions(paths: Iterable[Path]) -> tuple[set[VolumeName], list[str]]:
    """Read lists of volume names or paths; return the volumes, and errors for invalid lines."""
    excluded = set()
    errors = []
    for path in paths:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            base_name = line.strip().replace("\\", "/").rpartition("/")[2]
            if not base_name:
                continue
            try:
                excluded.add(VolumeName.parse(base_name))
            except InputError as error:
                errors.append(f"{path}, line {number}: {error}; correct or delete the line")
    return excluded, truncate(errors)


def label_path(split: str) -> str:
    """Return the path of a split's label table below a CT-RATE root."""
    return f"dataset/multi_abnormality_labels/{CT_RATE_SPLITS[split]}_predicted_labels.csv"


def metadata_path(split: str) -> str:
    """Return the path of a split's table of DICOM metadata below a CT-RATE root."""
    name = {"train": "train", "test": "validation"}[split]
    return f"dataset/metadata/{name}_metadata.csv"


def read_label_table(path: Path, split: str) -> tuple[pd.DataFrame, list[str]]:
    """Read a table with the columns VolumeName and the 18 findings in their order.

    Returns:
        A table with one row per volume, indexed by the line in the file, with name (without
        .nii.gz), scan_id and the 18 findings as 0 or 1; and the errors. If there are errors,
        unreadable cells are 0 and rows without a readable name are missing.
    """
    table, errors, source = read_text_table(path, _FIX)
    if table.columns.empty:
        return pd.DataFrame(columns=["name", "scan_id", *FINDINGS]), errors
    errors += [f"{path}, line 1: {message}" for message in _header_errors([*table.columns])]
    check_name = partial(_check_name, prefix=CT_RATE_SPLITS[split])
    errors += cell_errors(table, [(NAME_COLUMN, check_name)], source)
    errors += cell_errors(table, [(finding, check_label) for finding in FINDINGS], source)
    names = {
        line: VolumeName.parse(cell)
        for line, cell in table.get(NAME_COLUMN, pd.Series(dtype=str)).items()
        if not check_name(cell)
    }
    cells = table.loc[list(names)].reindex(columns=FINDINGS, fill_value="0")
    labels = cells.isin([text for text, value in LABELS.items() if value]).astype("int64")
    labels.insert(0, "name", [str(name) for name in names.values()])
    labels.insert(1, "scan_id", [name.scan_id for name in names.values()])
    return labels, errors + _row_errors(labels, path)


def _check_name(cell: str, prefix: str = "") -> str | None:
    """Return an error if a cell is not the name of a volume that begins with this prefix."""
    if not VolumeName.is_name(cell):
        return "is not a CT-RATE volume name such as train_1_a_1.nii.gz; correct or delete the row"
    if not cell.startswith(prefix):
        return f"is not in CT-RATE's {prefix} split; move the row"
    return None


def _header_errors(header: list[str]) -> list[str]:
    expected = [NAME_COLUMN, *FINDINGS]
    unknown = [column for column in header if column not in expected]
    errors = [missing_column(column, unknown) for column in expected if column not in header]
    for column in unknown[:MOST_FAULTS]:
        similar = find_similar(column, expected)
        hint = f"did you mean {similar!r}?" if similar else "delete it"
        errors.append(f"column {quote(column)} is unknown; {hint}")
    errors += truncate(unknown)[MOST_FAULTS:]
    if not errors and header != expected:
        index = [one == other for one, other in zip(header, expected, strict=True)].index(False)
        errors.append(
            f"the columns are in another order than CT-RATE's: column {index + 1} is "
            f"{header[index]!r} and must be {expected[index]!r}. Put them back in order, after "
            "making sure that the values moved along with their names"
        )
    return errors


def _row_errors(labels: pd.DataFrame, path: Path) -> list[str]:
    again = labels[labels["name"].duplicated()]
    first = labels.drop_duplicates("name").reset_index().set_index("name")["index"]
    errors = [
        f"{path}, line {line}: {name} has labels in line {first[name]} already; keep one row"
        for line, name in again["name"].items()
    ]
    # A scan's labels come from its report, and are the same for all reconstructions.
    versions = labels.drop_duplicates(["scan_id", *FINDINGS])
    scans = versions.loc[versions["scan_id"].duplicated(), "scan_id"]
    differing = []
    for scan, rows in labels[labels["scan_id"].isin(scans)].groupby("scan_id", sort=False):
        columns = ", ".join(finding for finding in FINDINGS if rows[finding].nunique() > 1)
        lines = ", ".join(str(line) for line in rows.index)
        differing.append(
            f"{path}, lines {lines}: the rows of scan {scan} differ in {columns}; "
            "all reconstructions of a scan have one report, so make them equal"
        )
    return truncate(errors) + truncate(differing)


def read_metadata_table(root: Path, split: str) -> tuple[pd.DataFrame, list[str]]:
    """Read a split's table below a CT-RATE root, if it has one.

    Returns:
        A table of GROUPS and SERIES, indexed by the name of the volume; and the errors.
    """
    path = root / metadata_path(split)
    empty = pd.DataFrame(columns=[*GROUPS, SERIES], index=pd.Index([], name="name"), dtype=object)
    if not path.exists():
        log.info("%s does not exist: scores cannot be grouped by scanner, sex or age", path)
        return empty, []
    table, errors, source = read_text_table(path, _FIX)
    if NAME_COLUMN not in table:
        if not table.columns.empty:
            errors.insert(0, f"{path}, line 1: {missing_column(NAME_COLUMN, [*table.columns])}")
        return empty, errors
    used = (*GROUPS, *COLUMNS.values())
    if missing := [column for column in used if column not in table]:
        log.warning(
            "%s: has no column %s: scores cannot be grouped by missing columns, and volumes of "
            "CT-RATE's first release cannot be read", path, ", ".join(missing),
        )  # fmt: skip
    names = table[NAME_COLUMN].str.strip().str.replace(r"^.*/", "", regex=True)
    errors += cell_errors(
        table.assign(**{NAME_COLUMN: names}), [(NAME_COLUMN, _check_name)], source
    )
    table["name"] = names.str.replace(r"\.nii(\.gz)?$", "", regex=True)
    table = table.reindex(columns=["name", *used], fill_value="").drop_duplicates()
    differing = table[table["name"].duplicated(keep=False)]
    errors += truncate(
        [
            f"{path}, {format_lines(list(rows.index))}: the rows of {name} differ; keep one"
            for name, rows in differing.groupby("name", sort=False)
        ]
    )
    table = table.drop_duplicates("name").set_index("name")
    rows = zip(*(table[column] for column in COLUMNS.values()), strict=True)
    table[SERIES] = [Series(*row) for row in rows]
    return table[[*GROUPS, SERIES]], errors
