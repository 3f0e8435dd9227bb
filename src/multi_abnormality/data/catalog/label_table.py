"""Strict reader of CT-RATE's label tables: nothing is guessed, all errors are reported at once."""

from pathlib import Path

import pandas as pd

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.data.catalog.identifier_spelling import find_similar, quote
from multi_abnormality.data.catalog.volume_id import CT_RATE_SPLITS, VolumeName
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.strict_csv import MOST_FAULTS, read_rows, repeated, truncate

NAME_COLUMN = "VolumeName"


def label_path(split: str) -> str:
    """Return the path of a split's table below a CT-RATE root."""
    return f"dataset/multi_abnormality_labels/{CT_RATE_SPLITS[split]}_predicted_labels.csv"


def read_label_table(path: Path, split: str) -> tuple[pd.DataFrame, list[str]]:
    """Read a table with the columns VolumeName and the 18 findings in their order.

    Returns:
        A table with one row per volume, indexed by the line in the file, with name (without
        .nii.gz), scan_id and the 18 findings as 0 or 1; and the errors. If there are errors,
        unreadable cells are 0 and rows without a readable name are missing.
    """
    try:
        read = read_rows(path, "fetch it again")
    except InputError as error:
        return _empty(), [str(error)]
    if len(read.header) == 1:
        message = (
            f"{path}, line 1: has one column; separate the cells by commas, as CT-RATE does, or "
            "fetch the table again"
        )
        return _empty(), [message]
    errors = [f"{path}, line 1: {message}" for message in _header_errors(read.header)]
    errors += read.faults
    table = pd.DataFrame(read.rows, read.lines, read.header, dtype=str)
    table = table.loc[:, ~table.columns.duplicated()]
    errors += _cell_errors(table, path)
    labels, name_errors = _with_names(table, path, split)
    return labels, errors + name_errors + _row_errors(labels, path)


def _empty() -> pd.DataFrame:
    return pd.DataFrame(columns=["name", "scan_id", *FINDINGS])


def _header_errors(header: list[str]) -> list[str]:
    expected = [NAME_COLUMN, *FINDINGS]
    missing = [column for column in expected if column not in header]
    unknown = [column for column in header if column not in expected]
    errors = truncate(
        [f"column {column!r} comes more than once; keep one" for column in repeated(header)]
    )
    for column in missing:
        similar = find_similar(column, unknown)
        errors.append(
            f"column {column!r} is missing; {f'rename {quote(similar)}' if similar else 'add it'}"
        )
    for column in unknown[:MOST_FAULTS]:
        similar = find_similar(column, expected)
        hint = f"did you mean {similar!r}?" if similar else "delete it"
        errors.append(f"column {quote(column)} is unknown; {hint}")
    errors += truncate(unknown)[MOST_FAULTS:]
    if not errors and header != expected:
        index = next(
            i for i, pair in enumerate(zip(header, expected, strict=True)) if len({*pair}) > 1
        )
        errors.append(
            f"the columns are in another order than CT-RATE's: column {index + 1} is "
            f"{header[index]!r} and must be {expected[index]!r}. Put them back in order, after "
            "making sure that the values moved along with their names"
        )
    return errors


def _cell_errors(table: pd.DataFrame, path: Path) -> list[str]:
    cells = table[[finding for finding in FINDINGS if finding in table]]
    wrong = ~cells.isin(["0", "1", "0.0", "1.0"]).to_numpy(dtype=bool)
    return truncate(
        [
            f"{path}, line {table.index[row]}, column {cells.columns[column]!r}: "
            f"{cells.iat[row, column]!r} is not 0 or 1; correct it"
            for row, column in zip(*wrong.nonzero(), strict=True)
        ]
    )


def _with_names(table: pd.DataFrame, path: Path, split: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows with valid names as name, scan_id and numeric findings; and the errors."""
    if NAME_COLUMN not in table:
        return _empty(), []
    names: dict[int, VolumeName] = {}
    errors = []
    for line, text in table[NAME_COLUMN].items():
        try:
            name = VolumeName.parse(text)
        except InputError as error:
            errors.append(f"{path}, line {line}: {error}; correct or delete the row")
            continue
        if name.split == split:
            names[line] = name
        else:
            errors.append(
                f"{path}, line {line}: {name} is not in CT-RATE's "
                f"{CT_RATE_SPLITS[split]} split; move the row"
            )
    table = table.loc[list(names)].reindex(columns=FINDINGS, fill_value="0")
    labels = table.isin(["1", "1.0"]).astype("int64")
    labels.insert(0, "name", [str(name) for name in names.values()])
    labels.insert(1, "scan_id", [name.scan_id for name in names.values()])
    return labels, truncate(errors)


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
