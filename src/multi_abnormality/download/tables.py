"""CT-RATE's tables: whole ones off the hub, and what of them belongs beside a part of the scans."""

import csv
import io
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from multi_abnormality.console import log
from multi_abnormality.data.ct_rate_files import read_exclusions
from multi_abnormality.data.label_table import NAME_COLUMN, label_path
from multi_abnormality.data.metadata_table import metadata_path
from multi_abnormality.data.names import VolumeName
from multi_abnormality.data.rows import MAX_BYTES, read_rows
from multi_abnormality.download.hub import Hub, RemoteFile
from multi_abnormality.errors import InputError, raise_faults
from multi_abnormality.files import write_durably

_LIST_FOLDERS = ("dataset", "dataset/metadata")  # where the no_chest lists may lie

Fetch = Callable[[RemoteFile, Path], None]


class Tables:
    """The whole tables of one commit, kept in a folder so that each is fetched once.

    Attributes:
        labels: by split, path of the table.
        metadata: paths below a CT-RATE root, of those that the hub has.
        exclusions: the same for the lists of what is no chest.
    """

    def __init__(self, hub: Hub, splits: Iterable[str], folder: Path, fetch: Fetch) -> None:
        self.folder = folder / hub.commit
        wanted = [label_path(split) for split in splits]
        metadata = [metadata_path(split) for split in splits]
        lists = [f"no_chest_{split}.txt" for split in splits]
        there = [path for place in _LIST_FOLDERS for path in hub.list_folder(place)]
        exclusions = [path for path in there if path.rpartition("/")[2] in lists]
        files = hub.describe([*wanted, *metadata, *exclusions])
        raise_faults(
            [f"{path}: is not on the hub" for path in wanted if path not in files],
            f"revision {hub.revision} has no labels; ask for another --revision",
        )
        raise_faults(
            [
                f"{path}: has {file.size:,} bytes"
                for path, file in files.items()
                if file.size > MAX_BYTES
            ],
            f"revision {hub.revision} has tables of more than {MAX_BYTES:,} bytes, which are not "
            "CT-RATE's; ask for another --revision",
        )
        for path, file in files.items():
            if not (self.folder / path).exists():
                fetch(file, self.folder / path)
        self.labels = {split: self.folder / label_path(split) for split in splits}
        self.metadata = [path for path in metadata if path in files]
        self.exclusions = [path for path in exclusions if path in files]
        if len(self.metadata) < len(metadata):
            log.warning("the hub has no metadata table of some split: scanner and age are unknown")
        if not exclusions:
            log.warning("the hub has no no_chest list: scans of other regions are fetched, too")

    def excluded(self, others: Iterable[Path]) -> set[VolumeName]:
        """What these lists, and others, leave out."""
        excluded, faults = read_exclusions(
            [*(self.folder / path for path in self.exclusions), *others]
        )
        raise_faults(faults, "The lists of volumes to leave out have lines that name none:")
        return excluded

    def put_beside(self, root: Path) -> None:
        """Write metadata and exclusions below a root, whole. What a user added to them stays."""
        for path in self.metadata:
            header, rows = _read(self.folder / path)
            _, own = _read(root / path) if (root / path).exists() else (header, {})
            _write(header, list((own | rows).values()), root / path)
        for path in self.exclusions:
            lines = (self.folder / path).read_text(encoding="utf-8-sig").splitlines()
            if (root / path).exists():
                kept = (root / path).read_text(encoding="utf-8-sig").splitlines()
                lines += [line for line in kept if line not in set(lines)]
            write_durably("".join(f"{line}\n" for line in lines).encode(), root / path)


class Labels:
    """The label table of one split below a root: always cut to the volumes that are there.

    Rows that it has already stay as they are: they may be a user's, of own patients or mended.
    """

    def __init__(self, whole: Path, table: Path) -> None:
        self._table = table
        self._header, rows = _read(whole)
        self.names = {VolumeName.parse(text) for text in rows}
        self._rows = rows
        if table.exists():
            header, own = _read(table)
            if header != self._header:
                raise InputError(
                    f"{table}: has other columns than the hub's; move it away, then again"
                )
            self._rows = rows | own

    def cut_to(self, names: Iterable[VolumeName]) -> None:
        """Write the rows of these volumes, in natural order, unless that is what is there."""
        rows = [self._rows[str(name)] for name in sorted(names) if str(name) in self._rows]
        if rows:
            _write(self._header, rows, self._table)


class Shelf:
    """The volumes that are there, and the label tables that name them and no others.

    Safe for threads. Row and volume come together, so that whatever ends the download leaves none
    without the other, but for a kill between two renames: the next download makes that good.
    """

    def __init__(self, labels: dict[str, Labels], names: set[VolumeName]) -> None:
        self._labels = labels
        self._lock = threading.Lock()
        self.names = names
        for split in labels:
            self._cut(split)

    def add(self, name: VolumeName, put: Callable[[], None]) -> None:
        """Write its row, then `put` the volume there."""
        with self._lock:
            known = name in self.names
            self.names.add(name)
            self._cut(name.split)
            try:
                put()
            except BaseException:
                if not known:
                    self.names.remove(name)
                    self._cut(name.split)
                raise

    def _cut(self, split: str) -> None:
        self._labels[split].cut_to(name for name in self.names if name.split == split)


def _read(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    """The header, and the rows by name without suffix."""
    table = read_rows(path, "move it away")
    raise_faults(table.faults, f"{path}: cannot be read as a table; correct it, or move it away")
    header, rows = table.header, table.rows
    if header[0] != NAME_COLUMN:
        raise InputError(f"{path}: its first column is not {NAME_COLUMN}; move it away")
    return header, {row[0].removesuffix(".gz").removesuffix(".nii"): row for row in rows}


def _write(header: list[str], rows: list[list[str]], path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    content = text.getvalue().encode()
    if not path.exists() or path.read_bytes() != content:
        write_durably(content, path)
