"""Reader of CT-RATE's metadata tables, which describe the DICOM series of each volume."""

import logging
from pathlib import Path

import pandas as pd

from multi_abnormality.data.catalog.identifier_spelling import find_similar, quote
from multi_abnormality.data.catalog.label_table import NAME_COLUMN
from multi_abnormality.data.catalog.volume_id import VolumeName
from multi_abnormality.data.io.series_metadata import COLUMNS, Series
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.strict_csv import Table, format_lines, read_rows, repeated, truncate

log = logging.getLogger(__name__)

# Columns that scores can be grouped by, as text: "" where the table or the cell is missing.
GROUPS = (
    "Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "PatientSex", "PatientAge",
)  # fmt: skip
SERIES = "series"  # column with each volume's Series, or None if the table has no row for it


def metadata_path(split: str) -> str:
    """Return the path of a split's table below a CT-RATE root."""
    name = {"train": "train", "test": "validation"}[split]
    return f"dataset/metadata/{name}_metadata.csv"


def read_metadata_table(root: Path, split: str) -> tuple[pd.DataFrame, list[str]]:
    """Read a split's table below a CT-RATE root, if it has one.

    Returns:
        A table of GROUPS and SERIES, indexed by the name of the volume; and the errors.
    """
    path = root / metadata_path(split)
    if not path.exists():
        log.info("%s does not exist: scores cannot be grouped by scanner, sex or age", path)
        return _empty(), []
    try:
        read = read_rows(path, "fetch it again")
    except InputError as error:
        return _empty(), [str(error)]
    errors = [
        f"{path}, line 1: column {column!r} comes more than once; keep one"
        for column in repeated(read.header)
    ]
    if NAME_COLUMN not in read.header:
        similar = find_similar(NAME_COLUMN, read.header)
        hint = (
            f"rename {quote(similar)}"
            if similar
            else "separate the cells by commas, as CT-RATE does"
        )
        message = f"{path}, line 1: has no column {NAME_COLUMN!r}; {hint}, or fetch the table again"
        return _empty(), [message, *errors]
    table, row_errors = _rows_by_name(read, path)
    return table, truncate(errors) + read.faults + row_errors


def _rows_by_name(read: Table, path: Path) -> tuple[pd.DataFrame, list[str]]:
    used = (*GROUPS, *COLUMNS.values())
    if missing := [column for column in used if column not in read.header]:
        log.warning(
            "%s: has no column %s: scores cannot be grouped by missing columns, and volumes of "
            "CT-RATE's first release cannot be read", path, ", ".join(missing),
        )  # fmt: skip
    table = pd.DataFrame(read.rows, read.lines, read.header, dtype=str)
    table = table.loc[:, ~table.columns.duplicated()]
    names = table[NAME_COLUMN].str.strip().str.replace(r"^.*/", "", regex=True)
    errors = truncate(
        [
            f"{path}, line {line}: {name!r} is not a CT-RATE volume name such as "
            "train_1_a_1.nii.gz; correct or delete the row"
            for line, name in names.items()
            if not VolumeName.is_name(name)
        ]
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


def _empty() -> pd.DataFrame:
    return pd.DataFrame(columns=[*GROUPS, SERIES], index=pd.Index([], name="name"), dtype=object)
