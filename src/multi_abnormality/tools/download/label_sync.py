"""CT-RATE's tables: complete ones from the hub, and their rows of the downloaded scans."""

import csv
import io
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from multi_abnormality.data.catalog.ct_rate_files import read_exclusions
from multi_abnormality.data.catalog.label_table import NAME_COLUMN, label_path
from multi_abnormality.data.catalog.metadata_table import metadata_path
from multi_abnormality.data.catalog.volume_id import CT_RATE_SPLITS, VolumeName
from multi_abnormality.tools.download.hub import Hub, RemoteFile
from multi_abnormality.utils.atomic_io import atomic_write
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError, raise_errors
from multi_abnormality.utils.strict_csv import MAX_BYTES, read_rows

_LIST_FOLDERS = ("dataset", "dataset/metadata")  # possible folders of the no_chest lists

Fetch = Callable[[RemoteFile, Path], None]


class Tables:
    """The complete tables of one commit, cached in a folder.

    Attributes:
        labels: path of the label table by split.
        metadata: paths of the available metadata tables, relative to a CT-RATE root.
        exclusions: paths of the available no_chest lists, likewise.
    """

    def __init__(self, hub: Hub, splits: Iterable[str], folder: Path, fetch: Fetch) -> None:
        self.folder = folder / hub.commit
        required = [label_path(split) for split in splits]
        metadata = [metadata_path(split) for split in splits]
        lists = [f"no_chest_{CT_RATE_SPLITS[split]}.txt" for split in splits]
        available = [path for folder_path in _LIST_FOLDERS for path in hub.list_folder(folder_path)]
        exclusions = [path for path in available if path.rpartition("/")[2] in lists]
        files = hub.describe([*required, *metadata, *exclusions])
        raise_errors(
            [f"{path}: is not on the hub" for path in required if path not in files],
            f"revision {hub.revision} has no labels; choose another --revision",
        )
        raise_errors(
            [
                f"{path}: has {file.size:,} bytes"
                for path, file in files.items()
                if file.size > MAX_BYTES
            ],
            f"revision {hub.revision} has tables of more than {MAX_BYTES:,} bytes, which are not "
            "CT-RATE's; choose another --revision",
        )
        for path, file in files.items():
            if not (self.folder / path).exists():
                fetch(file, self.folder / path)
        self.labels = {split: self.folder / label_path(split) for split in splits}
        self.metadata = [path for path in metadata if path in files]
        self.exclusions = [path for path in exclusions if path in files]
        if len(self.metadata) < len(metadata):
            log.warning("the hub lacks a metadata table of a split: scanner and age are unknown")
        if not exclusions:
            log.warning("the hub has no no_chest list: scans of other regions are fetched, too")

    def excluded(self, others: Iterable[Path]) -> set[VolumeName]:
        """Return the volumes excluded by these lists and by `others`."""
        excluded, errors = read_exclusions(
            [*(self.folder / path for path in self.exclusions), *others]
        )
        raise_errors(errors, "The exclusion lists have lines without a volume name:")
        return excluded

    def write_to(self, root: Path) -> None:
        """Write metadata tables and exclusion lists below a root, and keep a user's entries."""
        for path in self.metadata:
            header, rows = _read(self.folder / path)
            _, own = _read(root / path) if (root / path).exists() else (header, {})
            _write(header, list((own | rows).values()), root / path)
        for path in self.exclusions:
            lines = (self.folder / path).read_text(encoding="utf-8-sig").splitlines()
            if (root / path).exists():
                kept = (root / path).read_text(encoding="utf-8-sig").splitlines()
                lines += [line for line in kept if line not in set(lines)]
            atomic_write("".join(f"{line}\n" for line in lines).encode(), root / path)


class LabelTable:
    """Label table of one split below a root, with the rows of the available volumes only.

    Existing rows are kept: they may be a user's own or corrected.

    Args:
        full_table: path of the complete table.
        table: path of the table to write.

    Raises:
        InputError: a table can't be read, or their columns differ.
    """

    def __init__(self, full_table: Path, table: Path) -> None:
        self._table = table
        self._header, rows = _read(full_table)
        self.names = {VolumeName.parse(text) for text in rows}
        self._rows = rows
        if table.exists():
            header, own = _read(table)
            if header != self._header:
                raise InputError(
                    f"{table}: has other columns than the hub's; move it, then try again"
                )
            self._rows = rows | own

    def write_rows(self, names: Iterable[VolumeName]) -> None:
        """Write the rows of these volumes in natural order, unless the table is up to date."""
        rows = [self._rows[str(name)] for name in sorted(names) if str(name) in self._rows]
        if rows:
            _write(self._header, rows, self._table)


class LabelTableSync:
    """Keeps the label tables in step with the available volumes. Thread-safe.

    Only a kill between writing a row and its volume leaves one without the other; the next download
    fixes that.
    """

    def __init__(self, labels: dict[str, LabelTable], names: set[VolumeName]) -> None:
        self._labels = labels
        self._lock = threading.Lock()
        self.names = names
        for split in labels:
            self._write_rows(split)

    def add(self, name: VolumeName, store: Callable[[], None]) -> None:
        """Write a volume's row, then store the volume by calling `store`."""
        with self._lock:
            known = name in self.names
            self.names.add(name)
            self._write_rows(name.split)
            try:
                store()
            except BaseException:
                if not known:
                    self.names.remove(name)
                    self._write_rows(name.split)
                raise

    def _write_rows(self, split: str) -> None:
        self._labels[split].write_rows(name for name in self.names if name.split == split)


def _read(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Return the header, and the rows by volume name without suffix."""
    table = read_rows(path, "move it")
    raise_errors(table.faults, f"{path}: cannot be read as a table; correct it, or move it")
    header, rows = table.header, table.rows
    if header[0] != NAME_COLUMN:
        raise InputError(f"{path}: its first column is not {NAME_COLUMN}; move it")
    return header, {row[0].removesuffix(".gz").removesuffix(".nii"): row for row in rows}


def _write(header: list[str], rows: list[list[str]], path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    content = text.getvalue().encode()
    if not path.exists() or path.read_bytes() != content:
        atomic_write(content, path)
