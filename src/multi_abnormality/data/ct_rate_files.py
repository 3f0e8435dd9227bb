"""Which files of a CT-RATE folder are volumes, and which volumes its lists leave out."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from multi_abnormality.data.names import SPLITS, VolumeName
from multi_abnormality.data.receipts import SUFFIX as RECEIPT
from multi_abnormality.data.receipts import is_receipt
from multi_abnormality.data.rows import capped
from multi_abnormality.errors import InputError

# Elsewhere lie CT-RATE's segmentations, under the volumes' own names.
_SPLIT_OF_FOLDER: dict[tuple[str, ...], str] = {
    ("dataset", f"{split}{version}"): split for split in SPLITS for version in ("_fixed", "")
}
_VOLUME_SUFFIXES = (".nii", ".nii.gz", f".nii.gz{RECEIPT}")
_EXCLUSION_NAMES = {f"no_chest_{split}.txt" for split in SPLITS}


@dataclass
class Files:
    """The volumes and exclusion lists below a root, and the faults of the volumes' names.

    A volume's path is that of its receipt where the volume itself is gone.
    """

    volumes: dict[VolumeName, Path] = field(default_factory=dict)
    exclusions: list[Path] = field(default_factory=list)
    misnamed: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        return capped(sorted(self.misnamed)) + capped(sorted(self.twice))


def find_files(root: Path) -> Files:
    """Walk the root once. Linked folders are followed: scans often lie on another disk."""
    files = Files()
    for folder, _, file_names in os.walk(root, followlinks=True):
        split = _SPLIT_OF_FOLDER.get(Path(folder).relative_to(root).parts[:2])
        for file_name in file_names:
            path = Path(folder, file_name)
            if file_name in _EXCLUSION_NAMES:
                files.exclusions.append(path)
            elif is_receipt(path) and path.stem in file_names:
                continue
            elif split and file_name.endswith(_VOLUME_SUFFIXES) and file_name[0] != ".":
                _note_volume(files, path, split)
    files.exclusions.sort()
    return files


def _note_volume(files: Files, path: Path, split: str) -> None:
    try:
        name = VolumeName.parse(path.name.removesuffix(RECEIPT))
    except InputError as error:
        files.misnamed.append(f"{path}: {error}; rename or remove it")
        return
    if name.split != split:
        files.misnamed.append(f"{path}: is not of the {split} split; move it")
    elif name in files.volumes:
        first, second = sorted([files.volumes[name], path])
        files.twice.append(f"{first} and {second} are the same volume; remove one")
    else:
        files.volumes[name] = path


def read_exclusions(paths: Iterable[Path]) -> tuple[set[VolumeName], list[str]]:
    """The volumes named in lists of names or of full paths; and the lines that name none."""
    excluded = set()
    faults = []
    for path in paths:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            base_name = line.strip().replace("\\", "/").rpartition("/")[2]
            if not base_name:
                continue
            try:
                excluded.add(VolumeName.parse(base_name))
            except InputError as error:
                faults.append(f"{path}, line {number}: {error}; correct or delete the line")
    return excluded, capped(faults)
