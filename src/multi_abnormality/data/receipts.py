"""Receipts: what stays of a volume that was processed and deleted, so that a small disk will do.

`train_1_a_1.nii.gz.receipt` lies where the volume lay, a small JSON file. The volume counts as
there: its hash is known, and the processed set holds what was made of it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from multi_abnormality.data.names import VolumeName
from multi_abnormality.errors import InputError
from multi_abnormality.files import write_json

SUFFIX = ".receipt"


@dataclass(frozen=True)
class Receipt:
    """What the file was."""

    sha256: str
    bytes: int
    source: str  # such as "ibrahimhamamci/CT-RATE/dataset/train_fixed/…/train_1_a_1.nii.gz"


def is_receipt(path: Path) -> bool:
    return path.suffix == SUFFIX


def receipt_path(volume: Path) -> Path:
    return volume.with_name(volume.name + SUFFIX)


def write_receipt(receipt: Receipt, path: Path) -> None:
    write_json(asdict(receipt), path)


def read_receipt(path: Path) -> Receipt:
    """Raises InputError where it is damaged."""
    try:
        return Receipt(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is no receipt ({error}); {_fetch_again(path)}") from None


def voxels_are_gone(path: Path) -> InputError:
    """The error of a volume that has to be made anew and is not there."""
    return InputError(
        f"{path}: the volume was deleted after it was processed, and processed/ no longer has "
        f"what was made of it; {_fetch_again(path)}"
    )


def row_has_changed(path: Path) -> InputError:
    """The error of a v1 volume that was processed by another row of the metadata table."""
    return InputError(
        f"{path}: the volume was deleted after it was processed, and its row of the metadata table "
        f"says something else since then. Put the row back; or delete this file, and "
        f"{_fetch_again(path)}"
    )


def _fetch_again(path: Path) -> str:
    name = VolumeName.parse(path.name.removesuffix(SUFFIX))
    version = "v2" if f"{name.split}_fixed" in path.parts else "v1"
    return (
        f"`python -m multi_abnormality.download --split {name.split} --patients {name.patient} "
        f"--version {version} --then-preprocess` brings it back"
    )
