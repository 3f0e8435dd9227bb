"""Paths by which a table of own scans names the series of an export."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
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
