"""CT-RATE's metadata tables: what is known of the series behind each volume."""

import logging
from pathlib import Path

import pandas as pd

from multi_abnormality.data.io.series_metadata import COLUMNS, Series
from multi_abnormality.data.label_table import NAME_COLUMN
from multi_abnormality.data.rows import capped

log = logging.getLogger(__name__)

# What scores can be grouped by, as text: empty where the table or the cell is missing.
GROUPS = (
    "Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "PatientSex", "PatientAge",
)  # fmt: skip
SERIES = "series"  # the column with each volume's Series, or None where the table lacks it


def metadata_path(split: str) -> str:
    """Of a split's table, below a CT-RATE root."""
    name = {"train": "train", "valid": "validation"}[split]
    return f"dataset/metadata/{name}_metadata.csv"


def read_metadata_table(root: Path, split: str) -> tuple[pd.DataFrame, list[str]]:
    """Read a split's table below a CT-RATE root, if it has one.

    Returns:
        GROUPS and SERIES by the volume's name; and the table's faults.
    """
    path = root / metadata_path(split)
    if not path.exists():
        log.info("%s is not there: scores cannot be grouped by scanner, sex or age", path)
        return _empty(), []
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except (OSError, ValueError) as error:
        return _empty(), [f"{path}: cannot be read as a table ({error}); fetch it again"]
    if NAME_COLUMN not in table:
        way_out = "separate the cells by commas, as CT-RATE does, or fetch it again"
        return _empty(), [f"{path}: has no column {NAME_COLUMN!r}; {way_out}"]
    missing = [column for column in (*GROUPS, *COLUMNS.values()) if column not in table]
    if missing:
        log.warning(
            "%s: has no column %s: scores cannot be grouped by what it lacks, and volumes of "
            "CT-RATE's first release not be read without theirs", path, ", ".join(missing),
        )  # fmt: skip
    base_names = table[NAME_COLUMN].str.strip().str.rpartition("/")[2]
    table["name"] = base_names.str.replace(r"\.nii(\.gz)?$", "", regex=True)
    used = ["name", *GROUPS, *COLUMNS.values()]
    table = table.reindex(columns=used, fill_value="").drop_duplicates()
    twice = table.loc[table["name"].duplicated(), "name"]
    faults = [f"{path}: has two rows for {name} that differ; keep one" for name in twice]
    table = table.drop_duplicates("name").set_index("name")
    rows = table[list(COLUMNS.values())].itertuples(index=False, name=None)
    table[SERIES] = [Series(*row) for row in rows]
    return table[[*GROUPS, SERIES]], capped(faults)


def _empty() -> pd.DataFrame:
    return pd.DataFrame(columns=[*GROUPS, SERIES], index=pd.Index([], name="name"), dtype=object)
