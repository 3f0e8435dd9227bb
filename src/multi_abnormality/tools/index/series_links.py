"""Folders of links to the files of chosen series, under pseudonyms."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from multi_abnormality.tools.index.series_records import SeriesRecord
from multi_abnormality.utils.errors import InputError


def link_series(
    link: Path, export: Path, records: Sequence[SeriesRecord], files: Sequence[Sequence[str]]
) -> list[Path]:
    """Write a folder of symbolic links for each series, and return its path, or that of a .zip.

    Args:
        link: folder that gets `patient/series/0001` for the first file of a series.
        export: folder of the export.
        records: chosen series, one for each study.
        files: files of each series, relative to the export.

    Raises:
        InputError: the links cannot be written, or a folder there has other files.
    """
    paths = []
    for record, names in zip(records, files, strict=True):
        path = link / record.patient / record.key
        targets = [export / name for name in names]
        try:
            if record.in_zip:
                path = path.with_name(f"{path.name}.zip")
                _link_file(path, targets[0])
            else:
                _link_folder(path, targets)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error
        paths.append(path)
    return paths


def _link_folder(path: Path, targets: Sequence[Path]) -> None:
    links = {f"{number:04d}": target for number, target in enumerate(targets, start=1)}
    if path.is_dir():
        found = {one.name: one for one in path.iterdir()}
        if found.keys() == links.keys() and all(
            _leads_to(one, links[name]) for name, one in found.items()
        ):
            return
        _refuse_files(list(found.values()), path)
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, target in links.items():
        (temporary / name).symlink_to(target)
    if path.is_dir():
        shutil.rmtree(path)
    temporary.rename(path)


def _leads_to(path: Path, target: Path) -> bool:
    """Return whether a path is a link to a file, or a copy, by which `dvc add` replaces links."""
    if path.is_symlink():
        return path.readlink() == target
    return path.is_file() and path.stat().st_size == target.stat().st_size


def _link_file(path: Path, target: Path) -> None:
    if path.exists() and _leads_to(path, target):
        return
    _refuse_files([path], path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)


def _refuse_files(paths: Sequence[Path], folder: Path) -> None:
    """Raise an error if a file that is no link would be deleted."""
    if any(path.exists() and not path.is_symlink() for path in paths):
        raise InputError(
            f"{folder}: has other files than the export; move it away, or name another folder by "
            "--link"
        )
