"""Catalog of a dataset: one table of scans, whatever the layout of the files."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import pandas as pd

from multi_abnormality.data.catalog.volume_id import CT_RATE_SPLITS
from multi_abnormality.utils.errors import raise_errors

# Columns that scores can be grouped by, as text: "" where the table or the cell is missing.
GROUPS = (
    "Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "PatientSex", "PatientAge",
)  # fmt: skip
FOLD = "fold"  # column with the fold that holds a volume out, as text; "": in no fold
SERIES = "series"  # column with each volume's Series, or None if no table has it


@dataclass(frozen=True)
class DatasetLayout:
    """Layout of a dataset, with the hints for its error messages.

    Attributes:
        is_ct_rate: whether names of volumes encode split, patient and scan, as CT-RATE's do.
        leave_out: end of the sentence "leave it out ...".
        missing_split: error for a split without scans; {split} and {use} are filled in.
        needs_test: whether there must be a test split; with folds there need not.
    """

    is_ct_rate: bool
    leave_out: str
    missing_split: str
    needs_test: bool = True

    def split_errors(self, splits: Iterable[str]) -> list[str]:
        """Return errors for splits without scans, so that these are found before training."""
        present = set(splits)
        return [
            self.missing_split.replace("{split}", split)
            .replace("{prefix}", CT_RATE_SPLITS[split])
            .replace("{use}", use)
            for split, use in (("train", "train on"), ("test", "score the model on"))
            if split not in present and (split != "test" or self.needs_test)
        ]


@dataclass(frozen=True)
class Catalog:
    """Scans of a dataset with their labels and metadata.

    Attributes:
        volumes: one row per volume, in natural order: name, split, patient_id, scan_id,
            reconstruction (int), path, the findings (0 or 1, int unless a label of the finding
            is missing: NaN), GROUPS as text, SERIES, and FOLD if there are folds.
        findings: names of the labels, in order.
        excluded: names of volumes on disk that an exclusion list names.
        source: layout of the files.
    """

    volumes: pd.DataFrame
    findings: tuple[str, ...]
    excluded: tuple[str, ...]
    source: DatasetLayout

    def drop(self, rejected: Collection[str]) -> "Catalog":
        """Return the catalog without the volumes of these names.

        Raises:
            InputError: a split or a fold would be empty.
        """
        if not rejected:
            return self
        left = self.volumes[~self.volumes["name"].isin(rejected)].reset_index(drop=True)
        errors = self.source.split_errors(left["split"])
        if FOLD in left:
            errors += [
                f"fold {fold}: has no scan left; lower data.folds, or correct its scans"
                for fold in sorted(set(self.volumes[FOLD]) - set(left[FOLD]) - {""}, key=int)
            ]
        raise_errors(
            errors,
            f"{len(rejected)} volumes cannot be used (see above), and what is left is not enough",
        )
        return replace(self, volumes=left)
