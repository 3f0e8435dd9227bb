"""The scans of a folder as one table, whatever its layout: what preprocess needs of it."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import pandas as pd

from multi_abnormality.errors import raise_faults


@dataclass(frozen=True)
class Source:
    """A layout, and what a user of it does about a fault.

    Attributes:
        is_ct_rate: whether the scans are CT-RATE's, whose names tell split, patient and scan.
        leave_out: how a scan is left out, as the end of "leave it out ".
        lacking: what is said of a split without scans, with {split} and {use} in it.
    """

    is_ct_rate: bool
    leave_out: str
    lacking: str

    def split_faults(self, splits: Iterable[str]) -> list[str]:
        """Said before the first volume is read, and not by evaluate after a long training."""
        there = set(splits)
        return [
            self.lacking.replace("{split}", split).replace("{use}", use)
            for split, use in (("train", "train on"), ("valid", "score the model on"))
            if split not in there
        ]


@dataclass(frozen=True)
class Catalogue:
    """What a folder holds.

    Attributes:
        volumes: a row a volume, in natural order: name, split, patient_id, scan_id, reconstruction
            (int), path, the findings (int, 0 or 1), GROUPS as text, and SERIES.
        findings: the labels' names in their order.
        excluded: names of volumes on disk that a list leaves out.
        source: the layout.
    """

    volumes: pd.DataFrame
    findings: tuple[str, ...]
    excluded: tuple[str, ...]
    source: Source

    def without(self, rejected: Collection[str]) -> "Catalogue":
        """The same but for some volumes, by name.

        Raises:
            InputError: nothing of a split would be left.
        """
        if not rejected:
            return self
        left = self.volumes[~self.volumes["name"].isin(rejected)].reset_index(drop=True)
        raise_faults(
            self.source.split_faults(left["split"]),
            f"{len(rejected)} volumes cannot be used (see above), and what is left is not enough",
        )
        return replace(self, volumes=left)
