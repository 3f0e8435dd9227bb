"""Which file or folder each row of a table of one's own means."""

import os
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from multi_abnormality.data.io.dicom import is_dicom
from multi_abnormality.data.io.read import SUFFIXES
from multi_abnormality.params_data import is_inside

FILES = tuple(suffix for suffix in SUFFIXES if suffix != ".mhd")


@dataclass(frozen=True)
class Located:
    """What a cell means: a volume's name and its file or folder; or what is wrong with it."""

    name: str
    path: Path
    fault: str | None = None


def locate(cell: str, folder: Path) -> Located:
    """Find a scan by its path below a folder, with or without its suffix.

    The name is that path without the suffix.
    """
    text = PurePosixPath(cell.replace("\\", "/")).as_posix()
    path = folder / text
    if not is_inside(text) or not text.isprintable():
        return Located(text, path, f"must be a path below {folder}/; correct it")
    found = _found(path) or _found(folder / unicodedata.normalize("NFD", text))
    if not found:
        return Located(text, path, f"{path} is not there; bring it, or correct or delete the row")
    if len(found) > 1:
        names = " or ".join(map(str, found))
        return Located(text, path, f"may mean {names}; write its whole name")
    return Located(_name_of(text), found[0], _fault_of(found[0]))


def _found(path: Path) -> list[Path]:
    found = [path] if path.exists() else []
    return found + [file for suffix in FILES if (file := Path(f"{path}{suffix}")).is_file()]


def _name_of(text: str) -> str:
    for suffix in FILES:
        if text.lower().endswith(suffix):
            return text[: -len(suffix)]
    return text


def _fault_of(path: Path) -> str | None:
    if path.is_dir():
        if any(file.is_file() for file in path.iterdir()):
            return None
        return f"{path}/ holds no files; name the folder that the DICOM files are in themselves"
    if path.name.lower().endswith(".mhd"):
        return f"{path} has its voxels in another file; convert both to .mha"
    if not path.name.lower().endswith(FILES):
        return f"{path} is none of {', '.join(FILES)}; for DICOM name the folder of the series"
    return None


def strangers(folder: Path, known: Collection[Path]) -> Iterator[Path]:
    """Scan files, and folders of DICOM files, below a folder that no row means."""
    there = {path.absolute() for path in known}
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        names.sort()
        if Path(place).absolute() not in there and any(
            _is_dicom(Path(place, name)) for name in names
        ):
            yield Path(place)
        for name in names:
            path = Path(place, name)
            is_scan = name.lower().endswith(FILES) and name[0] != "."
            if is_scan and path.absolute() not in there:
                yield path


def _is_dicom(path: Path) -> bool:
    try:
        return is_dicom(path)
    except OSError:  # what cannot be opened is none
        return False
