"""Which scans are meant by what was given."""

import glob
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from multi_abnormality.data.volume import SUFFIXES, scan_name
from multi_abnormality.errors import raise_faults


def find_scans(given: Iterable[Path]) -> list[Path]:
    """Scans from files, folders and patterns such as "in/**/*.nii.gz", none twice.

    A folder stands for the scans in it and below. Of these, folders of files named *.dcm or
    without a suffix are DICOM series; other files are no scans.

    Raises:
        InputError: two scans have one name, or a pattern fits nothing.
    """
    found: dict[Path, None] = {}
    faults = []
    for path in given:
        if path.is_dir():
            found |= dict.fromkeys(_inside(path) or [path])
        elif path.exists() or not glob.has_magic(str(path)):
            found[path] = None
        else:
            # Path.glob takes no absolute pattern.
            matches = map(Path, sorted(glob.glob(str(path), recursive=True)))  # noqa: PTH207
            scans = [match for match in matches if _is_series(match) or _is_file(match)]
            found |= dict.fromkeys(scans)
            if not scans:
                faults.append(f"{path}: no scan fits this pattern")
    names = defaultdict(list)
    for path in found:
        names[scan_name(path)].append(str(path))
    faults += [
        f"{name}: is the name of several scans: {', '.join(paths)}; give them apart"
        for name, paths in names.items()
        if len(paths) > 1
    ]
    raise_faults(faults, "nothing was predicted")
    return list(found)


def _inside(folder: Path) -> list[Path]:
    if _is_series(folder):
        return [folder]
    return sorted(path for path in folder.rglob("*") if _is_series(path) or _is_file(path))


def _is_file(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def _is_series(path: Path) -> bool:
    if not path.is_dir():
        return False
    files = [one for one in path.iterdir() if one.is_file() and one.name[0] != "."]
    return any(one.suffix.lower() in ("", ".dcm", ".ima") for one in files)
