"""A CT-RATE folder as one table of volumes with their labels, and its split for validation."""

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from multi_abnormality.data.ct_rate_files import find_files, read_exclusions
from multi_abnormality.data.label_table import MOST_FAULTS, NAME_COLUMN, capped, read_label_table
from multi_abnormality.data.metadata_table import GROUPS, SERIES, read_metadata_table
from multi_abnormality.data.names import SPLITS, VolumeName, describe
from multi_abnormality.errors import InputError, raise_faults
from multi_abnormality.findings import FINDINGS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Catalogue:
    """What a CT-RATE folder holds.

    Attributes:
        volumes: a row a volume, sorted by name: name, split, patient_id, scan_id, reconstruction
            (int), path, the 18 findings (int, 0 or 1), GROUPS as text, and SERIES.
        excluded: volumes on disk that a no_chest_*.txt leaves out.
    """

    volumes: pd.DataFrame
    excluded: tuple[VolumeName, ...]

    def without(self, rejected: Collection[str], root: Path) -> "Catalogue":
        """The same but for some volumes, by name.

        Raises:
            InputError: nothing of a split would be left.
        """
        if not rejected:
            return self
        left = self.volumes[~self.volumes["name"].isin(rejected)].reset_index(drop=True)
        raise_faults(
            _split_faults(left["split"], root),
            f"{len(rejected)} volumes cannot be used (see above), and what is left is not enough",
        )
        return Catalogue(left, self.excluded)


def read_catalogue(root: Path) -> Catalogue:
    """Join the volumes, labels, exclusions and metadata below a CT-RATE root such as data/.

    A row of labels without a volume is an error and not a subset taken silently: an unfinished
    download would otherwise train on whatever had arrived.

    Raises:
        InputError: lists every fault of every table and file name, each with its way out.
    """
    files = find_files(root)
    if not (files.volumes or files.misnamed):
        raise InputError(
            f"{root}/: holds no volumes such as dataset/train_fixed/train_1/train_1_a/"
            "train_1_a_1.nii.gz. `make repro` puts sample scans there where the folder is "
            f"missing; or bring CT-RATE's `dataset` folder (volumes and label tables) to {root}/"
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
        faults += _split_faults([name.split for name in names], root)
    raise_faults(faults, f"{root}/: mend these first")
    volumes = describe(names).assign(path=[str(files.volumes[name]) for name in names])
    findings = pd.concat(labels).set_index("name")[list(FINDINGS)].astype("int64")
    volumes = volumes.join(findings, on="name").join(pd.concat(metadata), on="name")
    volumes = volumes.fillna(dict.fromkeys(GROUPS, ""))
    volumes[SERIES] = volumes[SERIES].where(volumes[SERIES].notna(), None)
    _tell_unknown(volumes, any(len(table) for table in metadata))
    return Catalogue(volumes, tuple(sorted(excluded & files.volumes.keys())))


def _split_faults(splits: Iterable[str], root: Path) -> list[str]:
    """Said before the first volume is read, and not by evaluate after a long training."""
    there = set(splits)
    return [
        f"{root}/: has no volume of the {split} split, and so nothing to {use}. Fetch some of "
        f"CT-RATE's with their labels, or move a part of your own patients there: name them "
        f"{split}_1_a_1.nii.gz and so on, in dataset/{split}_fixed/{split}_1/{split}_1_a/ and in "
        f"{split}_predicted_labels.csv"
        for split, use in (("train", "train on"), ("valid", "score the model on"))
        if split not in there
    ]


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
    path = root / "dataset" / "multi_abnormality_labels" / f"{split}_predicted_labels.csv"
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
