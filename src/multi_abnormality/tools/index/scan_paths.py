"""Paths by which a table of own scans names the series of an export, and folders of links."""

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from multi_abnormality.data.catalog.custom_files import locate
from multi_abnormality.data.catalog.identifier_spelling import has_invisible
from multi_abnormality.tools.index.series_records import Contents, SeriesRecord, parent_of
from multi_abnormality.utils.errors import InputError

_SPREAD = "spread over folders with other scans; use --link"


class TablePath(NamedTuple):
    """Path of a series below the folder that a table's paths start from."""

    path: str
    problem: str = ""  # why a table cannot name the series by it


def table_paths(contents: Contents, export: Path, root: Path | None) -> list[TablePath]:
    """Return the path of each series: its folder or, where other scans are in it, its first file.

    Args:
        contents: content of the whole export.
        export: folder of the export.
        root: folder that the table's paths start from, and that contains the export; None if the
            table names links to the chosen series.
    """
    held = Counter(
        folder for record in contents.records for folder in _with_parents(record.folders)
    )
    held.update(folder for name in contents.scans for folder in _with_parents([parent_of(name)]))
    damaged = {parent_of(name): PurePosixPath(name).name for name, _ in contents.damaged}
    in_zip: dict[str, list[SeriesRecord]] = defaultdict(list)
    for record in contents.records:
        if record.in_zip:
            in_zip[record.path].append(record)
    found = [
        _path_in_zip(record, in_zip[record.path])
        if record.in_zip
        else _choose_path(record, held, damaged)
        for record in contents.records
    ]
    if root is None:
        return [TablePath(path, "" if problem == _SPREAD else problem) for path, problem in found]
    prefix = Path(os.path.relpath(export, root)).as_posix()
    return [_checked(one, prefix, root) for one in found]


def _with_parents(folders: Iterable[str]) -> set[str]:
    """Return folders with all those above them, as text, where "" is the export itself."""
    return {parent for folder in folders for parent in _upwards(folder)}


def _upwards(folder: str) -> Iterator[str]:
    yield folder
    while folder:
        folder = parent_of(folder)
        yield folder


def _path_in_zip(record: SeriesRecord, found: list[SeriesRecord]) -> TablePath:
    usable = [one for one in found if not one.problem]
    originals = [one for one in usable if not one.derivation] or usable
    is_only = len(originals) == 1 and originals[0] is record
    return TablePath(record.path, "" if is_only else "its .zip has several series; unpack it")


def _choose_path(record: SeriesRecord, held: Counter[str], damaged: dict[str, str]) -> TablePath:
    folder = "" if record.path == "." else record.path
    broken = next((damaged[one] for one in record.folders if one in damaged), None)
    problem = f"{broken}, in its folder, is damaged" if broken else ""
    if held[folder] == 1 or problem:
        return TablePath(folder if held[folder] == 1 else record.first_file, problem)
    if len(record.folders) == 1:
        return TablePath(record.first_file)
    return TablePath(record.first_file, _SPREAD)


def _checked(found: TablePath, prefix: str, root: Path) -> TablePath:
    """Return the path below `root`, with a problem if a table cannot contain it."""
    path = PurePosixPath(prefix, found.path).as_posix()
    if found.problem:
        return TablePath(path, found.problem)
    if path != path.strip() or "\\" in path or has_invisible(path):
        return TablePath(path, "its path has characters that a table cannot have; rename it")
    if (root / path).is_dir():  # of a file, this would read the headers of its folder
        try:
            locate(path, root)
        except InputError as error:
            return TablePath(path, str(error).partition("; ")[0].replace(f"{root}/", ""))
    return TablePath(path)


def link_path(link: Path, record: SeriesRecord) -> Path:
    """Return where the links to a series are: a folder, or a link to its .zip."""
    return link / record.patient / f"{record.key}{'.zip' if record.in_zip else ''}"


def link_series(path: Path, targets: Sequence[Path]) -> None:
    """Write the symbolic links to a series.

    Args:
        path: folder that gets `0001` for the first file, or a link to a .zip.
        targets: files of the series.

    Raises:
        InputError: the links cannot be written, or the folder has other files.
    """
    try:
        if path.suffix == ".zip":
            _link_file(path, targets[0])
        else:
            _link_folder(path, targets)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


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
