"""Resolve the cells of a custom table to files and folders."""

import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from multi_abnormality.config.field_types import is_inside
from multi_abnormality.data.catalog.identifier_spelling import has_invisible
from multi_abnormality.data.io.reader_registry import (
    MAGIC_BYTES,
    begins_like_dicom,
    scan_suffixes,
    suffix_of,
)
from multi_abnormality.data.io.scan_sources import resolve_scan, walk
from multi_abnormality.utils.errors import InputError


def locate(cell: str, folder: Path) -> tuple[str, Path]:
    """Find a scan by its path below a folder, with or without its suffix.

    A scan is a file of a known format, a DICOM file of a series, a .zip of a series, or a folder
    that contains one at any depth. Its name is the path without the suffix; for a DICOM file it is
    that of the folder, with the series number where the folder holds several series.

    Returns:
        Name and path of the scan.

    Raises:
        InputError: there is no such scan, or there are several.
    """
    text = PurePosixPath(cell.replace("\\", "/")).as_posix()
    if not is_inside(text):
        raise InputError(f"must be a path below {folder}/; correct it")
    if has_invisible(text):
        raise InputError(f"{text!r} has invisible characters; rename the file")
    try:
        found = _matching_paths(folder, text)
        problem = _path_error(found[0]) if len(found) == 1 else None
    except OSError as error:
        raise InputError(f"{text[:80]!r} cannot be read ({error.strerror}); correct it") from error
    if not found:
        raise InputError(
            f"{folder / text} does not exist; copy it there, or correct or delete the row"
        )
    if len(found) > 1:
        names = " or ".join(str(one) if str(one).isascii() else ascii(str(one)) for one in found)
        raise InputError(f"may mean {names}; write its whole name, or rename one of them")
    if problem:
        raise InputError(problem)
    name = _series_name(found[0], folder) if _is_dicom(found[0]) else None
    return name or _name_of(text), found[0]


def _matching_paths(folder: Path, text: str) -> list[Path]:
    """Return the files and folders that a path may refer to, with or without its suffix.

    Each part may write letters with accents as one character (NFC) or as several (NFD).
    """
    *parents, last = PurePosixPath(text).parts or (".",)
    folders = [folder]
    for part in parents:
        folders = [match for parent in folders for match in _spellings(parent, [part])]
    with_suffix = [last + end for suffix in _suffixes() for end in (suffix, suffix.upper())]
    found = [match for parent in folders for match in _spellings(parent, [last])]
    found += [
        match for parent in folders for match in _spellings(parent, with_suffix) if match.is_file()
    ]
    # On a file system that ignores case or Unicode form, several names are one file.
    return list({(one.stat().st_dev, one.stat().st_ino): one for one in reversed(found)}.values())[
        ::-1
    ]


def _spellings(folder: Path, names: list[str]) -> list[Path]:
    """Return the entries of a folder with these names, in any Unicode normalization form."""
    found = [folder / name for name in names if (folder / name).exists()]
    if not all(map(str.isascii, names)) and folder.is_dir():
        available = {path.name: path for path in sorted(folder.iterdir())}
        requested = {unicodedata.normalize("NFC", name) for name in names}
        found += [
            path
            for name, path in available.items()
            if name not in names and unicodedata.normalize("NFC", name) in requested
        ]
    return found


def _series_name(path: Path, folder: Path) -> str | None:
    """Return the name of a DICOM file's series below a folder, as `predict --names-below` does."""
    try:
        source = resolve_scan(path)
    except (InputError, OSError):
        return None  # preprocess reports it
    return source.name_below(folder)


def _name_of(text: str) -> str:
    suffix = suffix_of(Path(text)) or (".zip" if text.lower().endswith(".zip") else "")
    return text[: len(text) - len(suffix)]


def _suffixes() -> tuple[str, ...]:
    """Return the suffixes of files that are listed as scans."""
    return (*scan_suffixes(), ".zip")


def _has_suffix(path: Path) -> bool:
    """Return whether a file has the suffix of a .zip or of a known format."""
    return bool(suffix_of(path)) or path.suffix.lower() == ".zip"


def _path_error(path: Path) -> str | None:
    if path.is_dir():
        if any(names for _, _, names in walk(path)):
            return None
        return f"{path}/ holds no files; name the folder that the DICOM files are in"
    if not path.is_file():
        return f"{path} is not a regular file; give a file or a folder"
    if _has_suffix(path) or _is_dicom(path):
        return None
    return f"{path} is not a DICOM file, and has none of the suffixes {', '.join(_suffixes())}"


def unlisted_scans(folder: Path, known: Collection[Path]) -> Iterator[Path]:
    """Yield scan files, and folders of DICOM files, below a folder that have no row.

    Unlike `find_scans`, which parses every DICOM file, this opens files of a folder only until the
    first DICOM file.
    """
    listed = {path.absolute() for path in known}
    with_listed_files = {path.parent for path in listed}
    for parent, folders, names in walk(folder):
        absolute = parent.absolute()
        if absolute in listed:
            folders.clear()  # a series may be spread over subfolders
            continue
        paths = [parent / name for name in names]
        if absolute not in with_listed_files and any(map(_is_dicom, paths)):
            yield parent
        for path in paths:
            if path.name.lower().endswith(_suffixes()) and path.absolute() not in listed:
                yield path


def _is_dicom(path: Path) -> bool:
    """Return whether a file begins as DICOM files do and is not a DICOMDIR."""
    name = path.name.lower()
    if _has_suffix(path) or name == "dicomdir" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return begins_like_dicom(file.read(MAGIC_BYTES), path.stat().st_size)
    except OSError:
        return False
