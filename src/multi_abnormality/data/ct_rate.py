"""A CT-RATE folder as one table of volumes with their labels."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from multi_abnormality.data.catalogue import Catalogue, Source
from multi_abnormality.data.ct_rate_files import find_files, read_exclusions
from multi_abnormality.data.label_table import NAME_COLUMN, label_path, read_label_table
from multi_abnormality.data.metadata_table import GROUPS, SERIES, read_metadata_table
from multi_abnormality.data.names import SPLITS, VolumeName, describe
from multi_abnormality.data.rows import MOST_FAULTS, capped
from multi_abnormality.errors import InputError, raise_faults
from multi_abnormality.findings import FINDINGS

log = logging.getLogger(__name__)


def ct_rate_source(root: Path) -> Source:
    """The layout of CT-RATE below a root such as data/."""
    return Source(
        is_ct_rate=True,
        leave_out=f"by a line in {root}/dataset/no_chest_train.txt or no_chest_valid.txt each",
        lacking=f"{root}/: has no volume of the {{split}} split, and so nothing to {{use}}. Fetch "
        "some of CT-RATE's with their labels, or move a part of your own patients there: name them "
        "{split}_1_a_1.nii.gz and so on, in dataset/{split}_fixed/{split}_1/{split}_1_a/ and in "
        "{split}_predicted_labels.csv",
    )


def read_ct_rate(root: Path, findings: Sequence[str] = FINDINGS) -> Catalogue:
    """Join the volumes, labels, exclusions and metadata below a CT-RATE root such as data/.

    A row of labels without a volume is an error and not a subset taken silently: an unfinished
    download would otherwise train on whatever had arrived.

    Args:
        root: of the layout.
        findings: some of the 18, or all.

    Raises:
        InputError: lists every fault of every table and file name, each with its way out.
    """
    files, source = find_files(root), ct_rate_source(root)
    if not (files.volumes or files.misnamed):
        raise InputError(
            f"{root}/: holds no volumes such as dataset/train_fixed/train_1/train_1_a/"
            "train_1_a_1.nii.gz. `make repro` puts sample scans there where the folder is "
            f"missing; or bring CT-RATE's `dataset` folder (volumes and label tables) to {root}/; "
            "or name a table of your own scans as data.table in params.yaml (docs/own-data.md)"
        )
    excluded, exclusion_faults = read_exclusions(files.exclusions)
    faults = files.faults + exclusion_faults
    labels, metadata = [], []
    for split in SPLITS:
        table, table_faults = _read_labels(root, split, files.volumes, excluded)
        labels.append(table)
        known, metadata_faults = read_metadata_table(root, split)
        metadata.append(known)
        faults += table_faults + metadata_faults
    names = sorted(files.volumes.keys() - excluded)
    if files.volumes and not names:
        faults.append(f"{root}/: its no_chest_*.txt leave out every volume; shorten them")
    elif files.volumes:
        faults += source.split_faults(name.split for name in names)
    raise_faults(faults, f"{root}/: correct these first")
    volumes = pd.DataFrame(describe(names)).assign(
        path=[str(files.volumes[name]) for name in names]
    )
    cells = pd.concat(labels).set_index("name")[list(findings)].astype("int64")
    volumes = volumes.join(cells, on="name").join(pd.concat(metadata), on="name")
    volumes = volumes.fillna(dict.fromkeys(GROUPS, ""))
    volumes[SERIES] = volumes[SERIES].where(volumes[SERIES].notna(), None)
    _tell_unknown(volumes, any(len(table) for table in metadata))
    left_out = tuple(map(str, sorted(excluded & files.volumes.keys())))
    return Catalogue(volumes, tuple(findings), left_out, source)


def _tell_unknown(volumes: pd.DataFrame, is_table_there: bool) -> None:
    unknown = volumes.loc[volumes[SERIES].isna(), "name"].tolist()
    if unknown and is_table_there:
        log.warning(
            "%d of %d volumes have no row in the metadata tables: %s",
            len(unknown), len(volumes), ", ".join(capped(unknown)),
        )  # fmt: skip


def _read_labels(
    root: Path, split: str, volumes: Iterable[VolumeName], excluded: set[VolumeName]
) -> tuple[pd.DataFrame, list[str]]:
    """A split's labels, and the faults of the table and of its match with the volumes."""
    path = root / label_path(split)
    present = sorted(name for name in volumes if name.split == split)
    empty = pd.DataFrame(columns=["name", *FINDINGS])
    if not path.exists():
        fault = f"{path}: is missing, though there are {len(present)} {split} volumes; fetch it"
        return empty, [fault] if present else []
    labels, faults = read_label_table(path, split)
    if labels.empty:
        return labels, faults
    left_out = {str(name) for name in excluded}
    on_disk = {str(name) for name in present}
    labelled_or_out = left_out.union(labels["name"])
    unlabelled = [
        f"{name}: is a volume without labels; add its row to {path}, or leave the volume out by "
        f"listing it in {root}/dataset/no_chest_{split}.txt"
        for name in map(str, present)
        if name not in labelled_or_out
    ]
    accounted = on_disk | left_out
    lacking = [name for name in labels["name"].unique() if name not in accounted]
    return labels, [*faults, *capped(unlabelled), *_lacking_fault(lacking, path, root, on_disk)]


def _lacking_fault(lacking: list[str], path: Path, root: Path, on_disk: set[str]) -> list[str]:
    if not lacking:
        return []
    shown = ", ".join(lacking[:MOST_FAULTS]) + (" ..." if len(lacking) > MOST_FAULTS else "")
    fault = f"{path}: {len(lacking)} rows have no volume ({shown}). Fetch the volumes"
    if on_disk:
        fault += (
            ", or cut the table down to the volumes that you have:\n"
            f"    (echo {NAME_COLUMN}; find -L {root} -name '*.nii*' "
            "| sed 's|.*/||; s|[.]receipt$||') "
            f"| grep -Ff - {path} > part.csv && mv part.csv {path}"
        )
    return [fault]
