"""Find the volumes and exclusion lists of a CT-RATE folder."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from multi_abnormality.data.catalog.placeholders import SUFFIX as PLACEHOLDER_SUFFIX
from multi_abnormality.data.catalog.placeholders import is_placeholder
from multi_abnormality.data.catalog.volume_id import CT_RATE_SPLITS, VolumeName
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.strict_csv import truncate

# Other folders hold CT-RATE's segmentations, whose names are those of the volumes.
_PREFIX_OF_FOLDER: dict[tuple[str, ...], str] = {
    ("dataset", f"{prefix}{version}"): prefix
    for prefix in CT_RATE_SPLITS.values()
    for version in ("_fixed", "")
}
_VOLUME_SUFFIXES = (".nii", ".nii.gz", f".nii.gz{PLACEHOLDER_SUFFIX}")
_EXCLUSION_NAMES = {f"no_chest_{prefix}.txt" for prefix in CT_RATE_SPLITS.values()}


@dataclass
class Files:
    """Volumes and exclusion lists below a root, and errors in the volumes' names.

    The path of a deleted volume is that of its placeholder.
    """

    volumes: dict[VolumeName, Path] = field(default_factory=dict)
    exclusions: list[Path] = field(default_factory=list)
    misnamed: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        return truncate(sorted(self.misnamed)) + truncate(sorted(self.twice))


def find_files(root: Path) -> Files:
    """Walk the root once. Symbolic links are followed: scans are often on another disk."""
    files = Files()
    for folder, _, file_names in os.walk(root, followlinks=True):
        prefix = _PREFIX_OF_FOLDER.get(Path(folder).relative_to(root).parts[:2])
        for file_name in file_names:
            path = Path(folder, file_name)
            if file_name in _EXCLUSION_NAMES:
                files.exclusions.append(path)
            elif is_placeholder(path) and path.stem in file_names:
                continue
            elif prefix and file_name.endswith(_VOLUME_SUFFIXES) and file_name[0] != ".":
                _add_volume(files, path, prefix)
    files.exclusions.sort()
    return files


def _add_volume(files: Files, path: Path, prefix: str) -> None:
    try:
        name = VolumeName.parse(path.name.removesuffix(PLACEHOLDER_SUFFIX))
    except InputError as error:
        files.misnamed.append(f"{path}: {error}; rename or remove it")
        return
    if name.prefix != prefix:
        files.misnamed.append(f"{path}: is not in CT-RATE's {prefix} split; move it")
    elif name in files.volumes:
        first, second = sorted([files.volumes[name], path])
        files.twice.append(f"{first} and {second} are the same volume; remove one")
    else:
        files.volumes[name] = path


def read_exclusions(paths: Iterable[Path]) -> tuple[set[VolumeName], list[str]]:
    """Read lists of volume names or paths; return the volumes, and errors for invalid lines."""
    excluded = set()
    errors = []
    for path in paths:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            base_name = line.strip().replace("\\", "/").rpartition("/")[2]
            if not base_name:
                continue
            try:
                excluded.add(VolumeName.parse(base_name))
            except InputError as error:
                errors.append(f"{path}, line {number}: {error}; correct or delete the line")
    return excluded, truncate(errors)
