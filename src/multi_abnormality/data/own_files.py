"""Which file or folder each row of a table of one's own means."""

import os
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from multi_abnormality.data.io.dicom_magic import MAGIC_BYTES, begins_like_dicom
from multi_abnormality.data.io.reader_registry import SUFFIXES
from multi_abnormality.data.io.scan_sources import resolve_scan
from multi_abnormality.data.spelling import has_invisible
from multi_abnormality.errors import InputError
from multi_abnormality.params_data import is_inside

FILES = (*SUFFIXES, ".zip")


@dataclass(frozen=True)
class Located:
    """What a cell means: a volume's name and its file or folder; or what is wrong with it."""

    name: str
    path: Path
    fault: str | None = None


def locate(cell: str, folder: Path) -> Located:
    """Find a scan by its path below a folder, with or without its suffix.

    It is a file of a known format, a DICOM file of a series, a .zip with a series, or a folder with
    one in it or below. The name is that path without the suffix; of a DICOM file, that of its
    series: the folder's, and the series' number where there are several.
    """
    text = PurePosixPath(cell.replace("\\", "/")).as_posix()
    path = folder / text
    if not is_inside(text):
        return Located(text, path, f"must be a path below {folder}/; correct it")
    if has_invisible(text):
        return Located(text, path, f"{text!r} has invisible characters; rename the file")
    try:
        found = _find(folder, text)
    except OSError as error:
        return Located(text, path, f"{text[:80]!r} cannot be read ({error.strerror}); correct it")
    if not found:
        return Located(text, path, f"{path} is not there; bring it, or correct or delete the row")
    if len(found) > 1:
        names = " or ".join(str(one) if str(one).isascii() else ascii(str(one)) for one in found)
        return Located(text, path, f"may mean {names}; write its whole name, or rename one of them")
    fault = _fault_of(found[0])
    name = _series_name(found[0], folder) if fault is None and _is_dicom(found[0]) else None
    return Located(name or _name_of(text), found[0], fault)


def _find(folder: Path, text: str) -> list[Path]:
    """Files and folders that a path means, with or without its suffix.

    Letters with accents are one character (NFC) or several (NFD), also different in each part.
    """
    *parents, last = PurePosixPath(text).parts or (".",)
    places = [folder]
    for part in parents:
        places = [one for place in places for one in _spellings(place, [part])]
    with_suffix = [last + end for suffix in FILES for end in (suffix, suffix.upper())]
    found = [one for place in places for one in _spellings(place, [last])]
    found += [one for place in places for one in _spellings(place, with_suffix) if one.is_file()]
    # To a file system that ignores case or form, several names are one file's.
    return list({(one.stat().st_dev, one.stat().st_ino): one for one in reversed(found)}.values())[
        ::-1
    ]


def _spellings(place: Path, names: list[str]) -> list[Path]:
    """What is in a folder under these names, in any form of their letters."""
    found = [place / name for name in names if (place / name).exists()]
    if not all(map(str.isascii, names)) and place.is_dir():
        there = {path.name: path for path in sorted(place.iterdir())}
        wanted = {unicodedata.normalize("NFC", name) for name in names}
        found += [
            path
            for name, path in there.items()
            if name not in names and unicodedata.normalize("NFC", name) in wanted
        ]
    return found


def _series_name(path: Path, folder: Path) -> str | None:
    """The name of a DICOM file's series below a folder, as `predict --names-below` has it."""
    try:
        source = resolve_scan(path)
    except (InputError, OSError):
        return None  # preprocess reports it
    return source.name_below(folder)


def _name_of(text: str) -> str:
    suffix = next((suffix for suffix in (*FILES, ".img") if text.lower().endswith(suffix)), "")
    return text[: len(text) - len(suffix)]


def _fault_of(path: Path) -> str | None:
    if path.is_dir():
        if any(names for _, _, names in os.walk(path)):
            return None
        return f"{path}/ holds no files; name the folder that the DICOM files are in"
    if not path.is_file():
        return f"{path} is not a regular file; give a file or a folder"
    if path.name.lower().endswith((*FILES, ".img")) or _is_dicom(path):
        return None
    return f"{path} is none of {', '.join(FILES)}, and no DICOM file"


def strangers(folder: Path, known: Collection[Path]) -> Iterator[Path]:
    """Scan files, and folders of DICOM files, below a folder that no row means.

    `find_scans` would parse every DICOM file there; here one in each folder without a row will do.
    """
    there = {path.absolute() for path in known}
    with_known_files = {path.parent for path in there}
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place).absolute()
        if here in there:
            folders.clear()  # a series may be spread over subfolders
            continue
        folders.sort()
        paths = [Path(place, name) for name in sorted(names) if name[0] != "."]
        if here not in with_known_files and any(map(_is_dicom, paths)):
            yield Path(place)
        for path in paths:
            if path.name.lower().endswith(FILES) and path.absolute() not in there:
                yield path


def _is_dicom(path: Path) -> bool:
    """Whether it begins as DICOM files do, and is no list of them."""
    name = path.name.lower()
    if name.endswith((*FILES, ".img")) or name == "dicomdir" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return begins_like_dicom(file.read(MAGIC_BYTES), path.stat().st_size)
    except OSError:  # what cannot be opened is none
        return False
