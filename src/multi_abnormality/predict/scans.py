"""Which scans are meant by what was given."""

import glob
from collections.abc import Iterable
from pathlib import Path

from multi_abnormality.console import log
from multi_abnormality.data.io.dicom import is_dicom
from multi_abnormality.data.io.read import SUFFIXES
from multi_abnormality.errors import InputError, raise_faults
from multi_abnormality.predict.names import absolute


def find_scans(given: Iterable[Path]) -> list[Path]:
    """Scans from files, folders and patterns such as "in/**/*.nii.gz", no path twice.

    A folder stands for the scans in it and below. A folder that holds DICOM files, whatever their
    names, is a series; other files, and those whose names begin with a dot, are no scans. A link
    is a scan of its own: two patients' may lead to one file.

    Raises:
        InputError: a pattern fits nothing, or nobody may look there.
    """
    try:
        return _find(given)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _find(given: Iterable[Path]) -> list[Path]:
    found: dict[Path, Path] = {}  # what each is called here, by its whole path
    faults = []
    for path in given:
        if path.is_dir():
            scans = _inside(path) or [path]
        elif path.exists() or not glob.has_magic(str(path)):
            scans = [path]
        else:
            # Path.glob takes no absolute pattern.
            matches = map(Path, sorted(glob.glob(str(path), recursive=True)))  # noqa: PTH207
            scans = [match for match in matches if _is_series(match) or is_scan_file(match)]
            if not scans:
                faults.append(f"{path}: no scan fits this pattern")
        for scan in scans:
            found.setdefault(absolute(scan), scan)
    raise_faults(faults, "nothing was predicted")
    return list(found.values())


def _inside(folder: Path) -> list[Path]:
    """The scans in a folder and below. What nobody may look into there is told and left out."""
    scans = []
    for path in (folder, *sorted(folder.rglob("*"))):
        try:
            if _is_series(path) or is_scan_file(path):
                scans.append(path)
        except PermissionError as error:
            log.warning("%s: cannot be read (%s) and was left out", path, error.strerror)
    return scans


def is_scan_file(path: Path) -> bool:
    """Whether it is named as scans are; a DICOM series is a folder.

    A link to a scan that is gone is one too: who reads it says so, and it is not passed over.
    """
    # Macs put a "._scan.nii.gz" beside each scan on other systems' disks.
    hidden = path.name.startswith(".")
    return path.name.lower().endswith(SUFFIXES) and not hidden and not path.is_dir()


def _is_series(path: Path) -> bool:
    return path.is_dir() and any(map(is_dicom, path.iterdir()))
