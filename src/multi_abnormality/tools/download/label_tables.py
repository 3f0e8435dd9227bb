"""CT-RATE's tables: complete ones from the hub, and their rows of the downloaded scans."""

import csv
import io
import threading
from collections.abc import Iterable
from pathlib import Path

from multi_abnormality.data.catalog.ct_rate_files import (
    NAME_COLUMN,
    label_path,
    metadata_path,
    read_exclusions,
)
from multi_abnormality.data.catalog.volume_id import CT_RATE_SPLITS, SPLITS, VolumeName
from multi_abnormality.tools.download.destination import DownloadDir
from multi_abnormality.tools.download.hub import Hub, RemoteFile, TransferError, fetch
from multi_abnormality.utils.atomic_io import atomic_write
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError, raise_errors
from multi_abnormality.utils.strict_csv import MAX_BYTES, read_rows

_REQUIRED = [label_path(split) for split in SPLITS]
_METADATA = [metadata_path(split) for split in SPLITS]
_EXCLUSIONS = [
    f"{folder}/no_chest_{prefix}.txt"
    for folder in ("dataset", "dataset/metadata")
    for prefix in CT_RATE_SPLITS.values()
]

Rows = dict[str, list[str]]  # by name of the volume; the header is NAME_COLUMN's


class HubTables:
    """The complete tables and exclusion lists of one commit, cached in a folder.

    Raises:
        InputError: the hub lacks label tables, or they can't be fetched.
    """

    def __init__(self, hub: Hub, destination: DownloadDir) -> None:
        self.folder = destination.work / "tables" / hub.commit
        files = hub.describe([*_REQUIRED, *_METADATA, *_EXCLUSIONS])
        raise_errors(
            [f"{path}: is not on the hub" for path in _REQUIRED if path not in files],
            f"revision {hub.revision} has no labels; choose another --revision",
        )
        raise_errors(
            [
                f"{one.path}: has {one.size:,} bytes"
                for one in files.values()
                if one.size > MAX_BYTES
            ],
            f"revision {hub.revision} has tables of more than {MAX_BYTES:,} bytes, which are not "
            "CT-RATE's; choose another --revision",
        )
        for file in files.values():
            if not (self.folder / file.path).exists():
                _fetch_table(hub, file, destination.part(file), self.folder / file.path)
        self._metadata = [path for path in _METADATA if path in files]
        self._exclusions = [path for path in _EXCLUSIONS if path in files]
        if len(self._metadata) < len(_METADATA):
            log.warning("the hub lacks a metadata table of a split: scanner and age are unknown")
        if not self._exclusions:
            log.warning("the hub has no no_chest list: scans of other regions are fetched, too")

    def excluded(self, others: Iterable[Path]) -> set[VolumeName]:
        """Return the volumes excluded by these lists and by `others`."""
        lists = [self.folder / path for path in self._exclusions]
        excluded, errors = read_exclusions([*lists, *others])
        raise_errors(errors, "The exclusion lists have lines without a volume name:")
        return excluded

    def write_to(self, root: Path) -> None:
        """Write metadata tables and exclusion lists below a root, and keep a user's entries."""
        for path in self._metadata:
            own = _read(root / path) if (root / path).exists() else {}
            _write([*(own | _read(self.folder / path)).values()], root / path)
        for path in self._exclusions:
            lines = (self.folder / path).read_text(encoding="utf-8-sig").splitlines()
            if (root / path).exists():
                kept = (root / path).read_text(encoding="utf-8-sig").splitlines()
                lines += [line for line in kept if line not in set(lines)]
            atomic_write("".join(f"{line}\n" for line in lines).encode(), root / path)


def _fetch_table(hub: Hub, file: RemoteFile, part: Path, path: Path) -> None:
    try:
        fetch(hub, file, part)
    except TransferError as error:
        raise InputError(f"{error}; run the same command again") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    part.replace(path)


class LabelTables:
    """Label tables below a root, with the rows of the available volumes only. Thread-safe.

    Existing rows are kept: they may be a user's own or corrected. Only a kill between storing a
    volume and writing its row leaves one without the other; the next download fixes that.

    Attributes:
        labelled: volumes of each split's complete table.
        names: available volumes.

    Raises:
        InputError: a table can't be read, or their columns differ.
    """

    def __init__(self, complete: Path, root: Path) -> None:
        self._lock = threading.Lock()
        self._root = root
        self._rows: dict[str, Rows] = {}
        self.labelled: dict[str, set[VolumeName]] = {}
        self.names: set[VolumeName] = set()
        for split in SPLITS:
            rows, table = _read(complete / label_path(split)), root / label_path(split)
            self.labelled[split] = {VolumeName.parse(name) for name in rows if name != NAME_COLUMN}
            own = _read(table) if table.exists() else rows
            if own[NAME_COLUMN] != rows[NAME_COLUMN]:
                raise InputError(
                    f"{table}: has other columns than the hub's; move it, then try again"
                )
            self._rows[split] = rows | own

    def write(self, names: Iterable[VolumeName]) -> None:
        """Write the rows of all available volumes."""
        self.names = set(names)
        for split in SPLITS:
            self._write_rows(split)

    def add(self, name: VolumeName) -> None:
        """Write the row of a volume that has been stored."""
        with self._lock:
            self.names.add(name)
            self._write_rows(name.split)

    def _write_rows(self, split: str) -> None:
        """Write the rows in natural order, unless the table is up to date."""
        names = [str(name) for name in sorted(self.names) if name.split == split]
        rows = self._rows[split]
        if present := [rows[name] for name in names if name in rows]:
            _write([rows[NAME_COLUMN], *present], self._root / label_path(split))


def _read(path: Path) -> Rows:
    table = read_rows(path, "move it")
    raise_errors(table.faults, f"{path}: cannot be read as a table; correct it, or move it")
    if table.header[0] != NAME_COLUMN:
        raise InputError(f"{path}: its first column is not {NAME_COLUMN}; move it")
    rows = {row[0].removesuffix(".gz").removesuffix(".nii"): row for row in table.rows}
    return {NAME_COLUMN: table.header} | rows


def _write(rows: list[list[str]], path: Path) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    content = text.getvalue().encode()
    if not path.exists() or path.read_bytes() != content:
        atomic_write(content, path)
