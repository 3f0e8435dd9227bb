"""Names of volumes: CT-RATE's say split, patient, scan and reconstruction; others nothing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from multi_abnormality.errors import InputError

SPLITS = ("train", "valid")
SYNTHETIC = "synthetic"  # note of a volume whose scan was drawn by a program

# Numbers and letters are bounded, so that every name can be a file's.
_PATTERN = re.compile(
    r"(train|valid)_([1-9]\d{0,17})_([a-z]{1,20})_([1-9]\d{0,17})(?:\.nii(?:\.gz)?)?", re.ASCII
)


@dataclass(frozen=True, order=True)
class VolumeName:
    """One volume of CT-RATE. Sorts by number: train_2 comes before train_10.

    Patient numbers restart in each split: train_1 and valid_1 are two people.
    """

    split: str
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
            raise InputError(f"{text!r} is no CT-RATE volume name such as train_1_a_1.nii.gz")
        split, patient, scan, reconstruction = match.groups()
        return cls(split, int(patient), scan, int(reconstruction))

    @classmethod
    def is_name(cls, text: str) -> bool:
        return _PATTERN.fullmatch(text) is not None

    @property
    def patient_id(self) -> str:
        return f"{self.split}_{self.patient}"

    @property
    def scan_id(self) -> str:
        return f"{self.patient_id}_{self.scan}"

    def __str__(self) -> str:
        return f"{self.scan_id}_{self.reconstruction}"


def describe(names: Sequence[VolumeName]) -> dict[str, list[Any]]:
    """What the names say, as columns: name, split, patient_id, scan_id and reconstruction."""
    columns = ("split", "patient_id", "scan_id", "reconstruction")
    told = {column: [getattr(name, column) for name in names] for column in columns}
    return {"name": [str(name) for name in names]} | told


def natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """Sort key of any names: scan_2 comes before scan_10. CT-RATE's come as VolumeName sorts."""
    parts = [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]
    return parts, name  # 01 and 1 are one number
