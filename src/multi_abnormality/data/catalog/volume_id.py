"""Names of volumes. CT-RATE's encode split, patient, scan and reconstruction."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from multi_abnormality.utils.errors import InputError

SPLITS = ("train", "test")
# CT-RATE's names for the splits, in names of volumes, folders and tables: its "valid" is `test`.
VAL = "val"  # split of a table's own validation scans; elsewhere val is a part of train
CT_RATE_SPLITS = {"train": "train", "test": "valid"}

# Numbers and letters are bounded, so that every name is a valid file name.
_PATTERN = re.compile(
    r"(train|valid)_([1-9]\d{0,17})_([a-z]{1,20})_([1-9]\d{0,17})(?:\.nii(?:\.gz)?)?", re.ASCII
)


@dataclass(frozen=True, order=True)
class VolumeName:
    """Name of a CT-RATE volume. Sorts by number: train_2 comes before train_10.

    Patient numbers restart in each split: train_1 and valid_1 are different patients.

    Attributes:
        prefix: CT-RATE's name of the split: "train" or "valid".
        patient: number of the patient.
        scan: letter of the scan.
        reconstruction: number of the reconstruction.
    """

    prefix: str
    patient: int
    scan: str
    reconstruction: int

    @classmethod
    def parse(cls, text: str) -> "VolumeName":
        """Read a name with or without .nii or .nii.gz.

        Raises:
            InputError: names the text and shows what a name looks like.
        """
        match = _PATTERN.fullmatch(text)
        if not match:
            raise InputError(f"{text!r} is not a CT-RATE volume name such as train_1_a_1.nii.gz")
        prefix, patient, scan, reconstruction = match.groups()
        return cls(prefix, int(patient), scan, int(reconstruction))

    @classmethod
    def is_name(cls, text: str) -> bool:
        return _PATTERN.fullmatch(text) is not None

    @property
    def split(self) -> str:
        """One of SPLITS."""
        return next(split for split, prefix in CT_RATE_SPLITS.items() if prefix == self.prefix)

    @property
    def patient_id(self) -> str:
        return f"{self.prefix}_{self.patient}"

    @property
    def scan_id(self) -> str:
        return f"{self.patient_id}_{self.scan}"

    def __str__(self) -> str:
        return f"{self.scan_id}_{self.reconstruction}"


def describe_volume(names: Sequence[VolumeName]) -> dict[str, list[Any]]:
    """Return what the names encode, as columns name, split, patient_id, scan_id, reconstruction."""
    keys = ("split", "patient_id", "scan_id", "reconstruction")
    columns = {key: [getattr(name, key) for name in names] for key in keys}
    return {"name": [str(name) for name in names]} | columns


def natural_sort_key(name: str) -> tuple[list[tuple[str, int]], str]:
    """Sort key for any names: scan_2 comes before scan_10. CT-RATE's sort as VolumeName does."""
    parts = [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]
    return parts, name  # 01 and 1 are one number
