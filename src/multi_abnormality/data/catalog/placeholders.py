"""Placeholder left after a scan was preprocessed and deleted to save disk space.

`train_1_a_1.nii.gz.receipt`, a small JSON file, replaces the volume. The volume still counts as
present: its hash is known, and the processed set holds its voxels.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from multi_abnormality.data.catalog.volume_id import VolumeName
from multi_abnormality.utils.atomic_io import write_json
from multi_abnormality.utils.errors import InputError

SUFFIX = ".receipt"


@dataclass(frozen=True)
class Placeholder:
    """Hash, size and origin of a deleted file."""

    sha256: str
    bytes: int
    source: str  # such as "ibrahimhamamci/CT-RATE/dataset/train_fixed/…/train_1_a_1.nii.gz"


def is_placeholder(path: Path) -> bool:
    return path.suffix == SUFFIX


def placeholder_path(volume: Path) -> Path:
    return volume.with_name(volume.name + SUFFIX)


def write_placeholder(receipt: Placeholder, path: Path) -> None:
    write_json(asdict(receipt), path)


def read_placeholder(path: Path) -> Placeholder:
    """Read a placeholder.

    Raises:
        InputError: it is damaged.
    """
    try:
        return Placeholder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is not a receipt ({error}); {_fetch_again(path)}") from None


def source_deleted_error(path: Path) -> InputError:
    """Return the error for a volume that must be processed again but was deleted."""
    return InputError(
        f"{path}: the volume was deleted after it was processed, and processed/ no longer contains "
        f"it; {_fetch_again(path)}"
    )


def metadata_changed_error(path: Path) -> InputError:
    """Return the error for a deleted v1 volume whose row of the metadata table has changed."""
    return InputError(
        f"{path}: the volume was deleted after it was processed, and its row of the metadata table "
        f"has changed since. Put the row back; or delete this file, and {_fetch_again(path)}"
    )


def _fetch_again(path: Path) -> str:
    name = VolumeName.parse(path.name.removesuffix(SUFFIX))
    version = "v2" if f"{name.prefix}_fixed" in path.parts else "v1"
    return (
        f"`multi-abnormality download --split {name.split} --patients {name.patient} "
        f"--version {version} --then-preprocess` brings it back"
    )
