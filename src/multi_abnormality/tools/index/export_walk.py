"""Reading of an export in parallel, a part of a folder at a time."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from multi_abnormality.data.io.scan_sources import is_zip, natural_key, walk
from multi_abnormality.tools.index.header_cache import HeaderCache
from multi_abnormality.tools.index.pseudonyms import Pseudonyms
from multi_abnormality.tools.index.series_records import (
    Contents,
    SeriesRecord,
    parent_of,
    read_contents,
)
from multi_abnormality.utils import console
from multi_abnormality.utils.errors import InputError, plural
from multi_abnormality.utils.parallel.dask_task import code_hash
from multi_abnormality.utils.parallel.run_all import TaskFailed, run_all

UNIT_FILES = 400  # files that a task reads: a header takes 15 KB and 0.6 ms
MIN_PARALLEL = 2000  # files; fewer are read sooner than worker processes start
MEMORY = 400 << 20  # bytes per worker


class LocalWorkers(NamedTuple):
    """Processes of this machine."""

    workers: int | str
    dask: str | None = None


class _Unit(NamedTuple):
    """Files that one task reads; paths are relative to the export."""

    digest: str  # of their paths, sizes and times
    names: list[str]


def read_export(
    folder: Path, pseudonyms: Pseudonyms, cache: HeaderCache, workers: int | None
) -> tuple[Contents, Counter[str]]:
    """Read the headers of all files below a folder; also return the number of files by folder.

    Args:
        folder: folder of the export.
        pseudonyms: pseudonyms of patients and studies.
        cache: what earlier runs read.
        workers: number of processes; None for one per core.

    Raises:
        InputError: the folder cannot be read.
    """
    version = f"{code_hash()} {pseudonyms.of('version')}"
    units = [_Unit(_digest(folder, names, version), names) for names in _units(folder)]
    sizes = Counter(parent_of(name) for unit in units for name in unit.names)
    failed = _read_all(units, folder, pseudonyms, cache, workers, "read headers")
    known = cache.known(unit.digest for unit in units)
    digests = [unit.digest for unit in units if unit.digest in known]
    whole = Contents(damaged=failed)
    parts: dict[str, list[str]] = defaultdict(list)  # digests by series
    for digest, part in zip(digests, cache.read(digests), strict=True):
        whole.records += part.records
        whole.others += part.others
        whole.damaged += part.damaged
        whole.scans += part.scans
        for key in part.files:
            parts[key].append(digest)
    split = {key: found for key, found in parts.items() if len(found) > 1}
    if split:
        again = list(_whole_series(split, cache, version))
        whole.damaged += _read_all(again, folder, pseudonyms, cache, workers, "join series")
        whole.records = [record for record in whole.records if record.key not in split]
        for part in cache.read(unit.digest for unit in again):
            whole.records += part.records
        digests += [unit.digest for unit in again]
    cache.keep_only(set(digests))
    return whole, sizes


def _read_all(
    units: Sequence[_Unit],
    folder: Path,
    pseudonyms: Pseudonyms,
    cache: HeaderCache,
    workers: int | None,
    title: str,
) -> list[tuple[str, str]]:
    """Read what the cache does not have; return files that end the process that reads them."""
    known = cache.known(unit.digest for unit in units)
    new = {unit.digest: unit.names for unit in units if unit.digest not in known}
    if known:
        parts = plural(len(units), "part", "parts")
        console.log.info("%s: %d of %s already read", title, len(known), parts)
    count = sum(map(len, new.values()))
    machine = LocalWorkers(0 if count < MIN_PARALLEL else workers or "auto")
    items = {digest: (str(folder), names, pseudonyms) for digest, names in new.items()}
    failed = []
    results = run_all(read_contents, items, machine, [], MEMORY)
    for digest, content in console.track(results, title, len(items), "parts"):
        if isinstance(content, TaskFailed):
            failed += [(name, content.kind) for name in new[digest]]
        else:
            cache.add(digest, content)
    cache.save()
    return failed


def _units(folder: Path) -> Iterator[list[str]]:
    """Yield the files below a folder in parts; a .zip is a part of its own.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        for parent, _, found in walk(folder):
            below = parent.relative_to(folder)
            paths = [below / name for name in found]
            yield from ([path.as_posix()] for path in paths if is_zip(path))
            names = [path.as_posix() for path in paths if not is_zip(path)]
            for start in range(0, len(names), UNIT_FILES):
                yield names[start : start + UNIT_FILES]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); name a folder") from error


def _digest(folder: Path, names: Sequence[str], version: str) -> str:
    states = []
    for name in names:
        try:
            status = (folder / name).stat()
            states.append((status.st_size, status.st_mtime_ns))
        except OSError:
            states.append((-1, -1))
    text = json.dumps([version, names, states])
    return hashlib.sha256(text.encode()).hexdigest()


def _whole_series(split: dict[str, list[str]], cache: HeaderCache, version: str) -> Iterator[_Unit]:
    """Yield a unit for each series whose files several units have read."""
    names: dict[str, list[str]] = defaultdict(list)
    for part in cache.read(dict.fromkeys(digest for found in split.values() for digest in found)):
        for key in part.files.keys() & split.keys():
            names[key] += part.files[key]
    for key, found in split.items():
        text = json.dumps([version, key, found])
        yield _Unit(hashlib.sha256(text.encode()).hexdigest(), names[key])


def files_of(records: Sequence[SeriesRecord], cache: HeaderCache) -> list[list[str]]:
    """Return the files of some series, in natural order, as the last `read_export` found them."""
    names: dict[str, set[str]] = {record.key: set() for record in records}
    for part in cache.read_all():
        for key in part.files.keys() & names.keys():
            names[key].update(part.files[key])
    found = []
    for record in records:
        own = (name for name in names[record.key] if parent_of(name) in record.folders)
        files = sorted(own, key=lambda name: natural_key(Path(name)))
        found.append([record.path] if record.in_zip else files)
    return found
