"""A CT-RATE folder as one table of volumes with their labels."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.data.catalog.catalog import GROUPS, SERIES, Catalog, DatasetLayout
from multi_abnormality.data.catalog.ct_rate_files import (
    NAME_COLUMN,
    find_files,
    label_path,
    read_exclusions,
    read_label_table,
    read_metadata_table,
)
from multi_abnormality.data.catalog.volume_id import (
    CT_RATE_SPLITS,
    SPLITS,
    VolumeName,
    describe_volume,
)
from multi_abnormality.utils.errors import InputError, first_few, plural, raise_errors
from multi_abnormality.utils.strict_csv import truncate

log = logging.getLogger(__name__)


def ct_rate_layout(root: Path, needs_test: bool = True) -> DatasetLayout:
    """Return CT-RATE's layout for a root such as data/."""
    return DatasetLayout(
        is_ct_rate=True,
        needs_test=needs_test,
        leave_out=f"by a line in {root}/dataset/no_chest_train.txt or no_chest_valid.txt each",
        missing_split=f"{root}/: has no volume of the {{split}} split, and so nothing to {{use}}. "
        "Fetch some of CT-RATE's with their labels, or move a part of your own patients there: "
        "name them {prefix}_1_a_1.nii.gz and so on, in "
        "dataset/{prefix}_fixed/{prefix}_1/{prefix}_1_a/ and in {prefix}_predicted_labels.csv",
    )


def read_ct_rate(
    root: Path, findings: Sequence[str] = FINDINGS, needs_test: bool = True
) -> Catalog:
    """Join the volumes, labels, exclusions and metadata below a CT-RATE root such as data/.

    Labels without a volume are an error: a model would otherwise train on whatever part of an
    unfinished download had arrived.

    Args:
        root: directory that contains CT-RATE's `dataset` directory.
        findings: names of the labels to read, any of the 18.
        needs_test: whether there must be a test split.

    Raises:
        InputError: lists every error in the tables and file names, each with its fix.
    """
    files, source = find_files(root), ct_rate_layout(root, needs_test)
    if not (files.volumes or files.misnamed):
        raise InputError(
            f"{root}/: holds no volumes such as dataset/train_fixed/train_1/train_1_a/"
            "train_1_a_1.nii.gz. `make repro` puts sample scans there where the folder is "
            f"missing; or bring CT-RATE's `dataset` folder (volumes and label tables) to {root}/; "
            "or name a table of your own scans as data.table in params.yaml "
            "(docs/how-to/own-data.md)"
        )
    excluded, exclusion_errors = read_exclusions(files.exclusions)
    errors = files.faults + exclusion_errors
    labels, metadata = [], []
    for split in SPLITS:
        table, table_errors = _read_labels(root, split, files.volumes, excluded)
        labels.append(table)
        known, metadata_errors = read_metadata_table(root, split)
        metadata.append(known)
        errors += table_errors + metadata_errors
    names = sorted(files.volumes.keys() - excluded)
    if files.volumes and not names:
        errors.append(f"{root}/: its no_chest_*.txt leave out every volume; shorten them")
    elif files.volumes:
        errors += source.split_errors(name.split for name in names)
    raise_errors(errors, f"{root}/: correct these first")
    volumes = pd.DataFrame(describe_volume(names)).assign(
        path=[str(files.volumes[name]) for name in names]
    )
    cells = pd.concat(labels).set_index("name")[list(findings)].astype("int64")
    volumes = volumes.join(cells, on="name").join(pd.concat(metadata), on="name")
    volumes = volumes.fillna(dict.fromkeys(GROUPS, ""))
    volumes[SERIES] = volumes[SERIES].where(volumes[SERIES].notna(), None)
    _warn_unknown_volumes(volumes, any(len(table) for table in metadata))
    left_out = tuple(map(str, sorted(excluded & files.volumes.keys())))
    return Catalog(volumes, tuple(findings), left_out, source)


def _warn_unknown_volumes(volumes: pd.DataFrame, is_table_there: bool) -> None:
    unknown = volumes.loc[volumes[SERIES].isna(), "name"].tolist()
    if unknown and is_table_there:
        log.warning(
            "without a row in the metadata tables: %d of %s: %s",
            len(unknown), plural(len(volumes), "volume", "volumes"), first_few(unknown),
        )  # fmt: skip


def _read_labels(
    root: Path, split: str, volumes: Iterable[VolumeName], excluded: set[VolumeName]
) -> tuple[pd.DataFrame, list[str]]:
    """Return a split's labels, and the errors in the table and in its match with the volumes."""
    path = root / label_path(split)
    present = sorted(name for name in volumes if name.split == split)
    empty = pd.DataFrame(columns=["name", *FINDINGS])
    if not path.exists():
        count = plural(len(present), f"{split} volume", f"{split} volumes")
        message = f"{path}: is missing, and needed for {count}; fetch it"
        return empty, [message] if present else []
    labels, errors = read_label_table(path, split)
    if labels.empty:
        return labels, errors
    left_out = {str(name) for name in excluded}
    on_disk = {str(name) for name in present}
    labelled_or_out = left_out.union(labels["name"])
    unlabelled = [
        f"{name}: is a volume without labels; add its row to {path}, or leave the volume out by "
        f"listing it in {root}/dataset/no_chest_{CT_RATE_SPLITS[split]}.txt"
        for name in map(str, present)
        if name not in labelled_or_out
    ]
    accounted = on_disk | left_out
    without_volume = [name for name in labels["name"].unique() if name not in accounted]
    missing = _missing_volumes_error(without_volume, path, root, on_disk)
    return labels, [*errors, *truncate(unlabelled), *missing]


def _missing_volumes_error(
    names: list[str], path: Path, root: Path, on_disk: set[str]
) -> list[str]:
    if not names:
        return []
    rows_have = plural(len(names), "row has", "rows have")
    message = f"{path}: {rows_have} no volume ({first_few(names)}). Fetch the volumes"
    if on_disk:
        message += (
            ", or cut the table down to the volumes that you have:\n"
            f"    (echo {NAME_COLUMN}; find -L {root} -name '*.nii*' "
            "| sed 's|.*/||; s|[.]receipt$||') "
            f"| grep -Ff - {path} > part.csv && mv part.csv {path}"
        )
    return [message]
