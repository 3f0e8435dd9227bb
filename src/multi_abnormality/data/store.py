"""The processed set: every volume ready for training, in few files, read at random.

processed/train/train_00001-00010.zip   volumes of ten patients (shards.py)
processed/manifest.csv                  where each volume came from; present when all is done
processed/labels.csv                    the findings of each
processed/recipe.json                   the preprocess parameters, and the code's hash
"""

import hashlib
import json
import mmap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from multi_abnormality.data.names import SPLITS, SYNTHETIC, VolumeName, describe
from multi_abnormality.data.rows import capped, parse_rows, read_rows, repeated
from multi_abnormality.data.shards import UNREADABLE, decode, read_member, shard_path
from multi_abnormality.errors import InputError, raise_faults

FORMAT = 2  # raised when files of an earlier version can no longer be read
MANIFEST, LABELS, RECIPE = "manifest.csv", "labels.csv", "recipe.json"
TOLD = {"split", "patient_id"}  # of the manifest's columns, unless names of volumes say it
STORED, EXCLUDED, REJECTED = "stored", "excluded", "rejected"  # a volume's status in the manifest

_RESTORE = "run `dvc pull preprocess` or `dvc repro preprocess`"
_REPLACE = f"delete it, then {_RESTORE}"
_NEEDED = ("name", "status", "source_sha256", "voxels_sha256")  # columns of every manifest
_MAX_VOLUME = 1 << 30  # voxels; a recipe of more is damaged, and would take all memory


def whose(manifest: pd.DataFrame) -> pd.DataFrame:
    """name, split, patient_id, scan_id and reconstruction of a manifest's rows.

    CT-RATE's names say it. For others the manifest does, and each volume is a scan.
    """
    if not TOLD.issubset(manifest):
        return pd.DataFrame(
            describe([VolumeName.parse(name) for name in manifest["name"].tolist()])
        )
    ids = manifest[["name", "split", "patient_id"]].reset_index(drop=True)
    return ids.assign(scan_id=ids["name"], reconstruction=1)


def read_labels(file: Path | BinaryIO, name: str = f"processed/{LABELS}") -> pd.DataFrame:
    """Read labels.csv: name and the findings, 0 or 1.

    Args:
        file: path, or the open file.
        name: for errors, of an open file.

    Raises:
        InputError: lists every wrong cell and repeated row, with its line.
    """
    name = str(file) if isinstance(file, Path) else name
    table, faults = _read_table(file, name, ("name",))
    cells = table.drop(columns="name")
    positive = (cells == "1").to_numpy(dtype=bool)
    wrong = ~positive & ~(cells == "0").to_numpy(dtype=bool)
    faults += capped(
        [
            f"{name}, line {table.index[row]}, column {cells.columns[column]!r}: "
            f"{cells.iat[row, column]!r} is not 0 or 1"
            for row, column in zip(*wrong.nonzero(), strict=True)
        ]
    )
    if cells.columns.empty:
        faults.append(f"{name}, line 1: has no findings")
    raise_faults(faults, f"{name}: is damaged; {_REPLACE}")
    labels = pd.DataFrame(positive.astype("int64"), columns=cells.columns)
    labels.insert(0, "name", table["name"].array)
    return labels


def read_manifest(file: Path | BinaryIO, name: str = f"processed/{MANIFEST}") -> pd.DataFrame:
    """Read manifest.csv, every cell as text. Arguments are those of read_labels.

    Raises:
        InputError: lists every missing column, repeated row and wrong cell, with its line.
    """
    name = str(file) if isinstance(file, Path) else name
    table, faults = _read_table(file, name, _NEEDED)
    choices: dict[str, tuple[str, ...]] = {"status": (STORED, EXCLUDED, REJECTED)}
    stored = table[table["status"] == STORED] if "status" in table else table
    if TOLD.issubset(table):
        choices["split"] = SPLITS
        splits = stored.groupby("patient_id")["split"].nunique()
        faults += capped(
            [
                f"{name}: patient {patient!r} is in both splits"
                if patient
                else f"{name}, column 'patient_id': a cell is empty"
                for patient in splits.index[(splits > 1) | (splits.index == "")]
            ]
        )
    else:
        names = stored["name"]
        faults += capped(
            [
                f"{name}, line {line}, column 'name': {one!r} is no CT-RATE volume name, and the "
                "columns split and patient_id are missing"
                for line, one in zip(names.index, names.tolist(), strict=True)
                if not VolumeName.is_name(one)
            ]
        )
    for column, allowed in choices.items():
        cells = (table if column == "status" else stored)[column]
        faults += capped(
            [
                f"{name}, line {line}, column {column!r}: {cell!r} is not {' or '.join(allowed)}"
                for line, cell in cells[~cells.isin(allowed)].items()
            ]
        )
    raise_faults(faults, f"{name}: is damaged; {_REPLACE}")
    return table.reset_index(drop=True)


def _read_table(
    file: Path | BinaryIO, name: str, needed: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """A table by line, with its repeated rows and columns as faults.

    Raises:
        InputError: it cannot be read, or lacks a column that is needed.
    """
    if isinstance(file, Path):
        read = read_rows(file, _REPLACE)
    else:
        read = parse_rows(file.read(), name, _REPLACE)
    if missing := [column for column in needed if column not in read.header]:
        raise InputError(
            f"{name}, line 1: is damaged: has no column {', '.join(missing)}; {_REPLACE}"
        )
    if again := repeated(read.header):
        raise InputError(
            f"{name}, line 1: is damaged: has a column more than once: "
            f"{', '.join(capped([*map(repr, again)]))}; {_REPLACE}"
        )
    table = pd.DataFrame(read.rows, read.lines, read.header, dtype=str)
    names = table["name"]
    first = names.drop_duplicates().reset_index().set_index("name")["index"]
    twice = [
        f"{name}, line {line}: {one} stands in line {first[one]} already"
        for line, one in names[names.duplicated()].items()
    ]
    return table, read.faults + capped(twice)


def is_synthetic(notes: str) -> bool:
    """Whether a volume was made from a synthetic scan, by its `source_notes`."""
    return SYNTHETIC in notes.split("; ")


def mixed_with_synthetic(root: Path | str, synthetic: str, other: str) -> InputError:
    """Return the error for a set of both synthetic scans and scans of patients.

    Args:
        root: folder that holds both.
        synthetic: name of a synthetic volume.
        other: name of a volume that is not.
    """
    return InputError(
        f"{root}: mixes synthetic scans (such as {synthetic}) with scans of patients (such as "
        f"{other}), and a model trained on both has no meaning; keep one kind in data/, with its "
        "rows in the tables, then run `dvc repro` again"
    )


class _Flags:
    """One flag a volume, shared with the worker processes that are forked from this one."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._flags = mmap.mmap(-1, max(count, 1))  # of no file

    def __reduce__(self) -> tuple[type["_Flags"], tuple[int]]:
        return _Flags, (self._count,)  # a process that is not forked has flags of its own

    def __getitem__(self, place: int) -> bool:
        return self._flags[place] != 0

    def set(self, place: int) -> None:
        self._flags[place] = 1


class ProcessedSet:
    """Reads a processed set. Holds no open file, so worker processes can share or copy it.

    A volume is compared with its hash in the manifest when it is read first.

    Attributes:
        root: its folder.
        recipe: what of params.yaml's preprocess section it was made by.
        findings: the labels' names in their order.
        is_ct_rate: whether the scans were laid out as CT-RATE's.
        synthetic: whether the scans are synthetic phantoms.
        manifest: a row a stored volume in natural order: whose it is (split, patient_id, scan_id,
            reconstruction), shard, status, the source's hash, shape, spacing and axes, the
            voxels' hash, and metadata.
        labels: name and the findings, the same rows.

    Raises:
        InputError: it is missing, incomplete, of another version, or mixes synthetic scans with
            scans of patients.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in (MANIFEST, LABELS, RECIPE):
            if not (root / name).is_file():
                raise InputError(f"{root / name}: is missing or not finished yet; {_RESTORE}")
        self._read_recipe()
        self._read_tables()
        for shard in self.manifest["shard"].unique():
            if not (root / shard).is_file():
                raise InputError(f"{root / shard}: is missing; {_RESTORE}")

    def _read_recipe(self) -> None:
        path = self.root / RECIPE
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            if about["format"] != FORMAT:
                raise InputError(
                    f"{path}: has format {about['format']}, this version reads {FORMAT}; "
                    "run `dvc repro preprocess`"
                )
            self.recipe: dict[str, Any] = dict(about["preprocess"])
            z, y, x = self.recipe["shape"]
            possible = min(z, y, x) > 0 and z * y * x <= _MAX_VOLUME
        except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: is damaged ({error!r}); {_REPLACE}") from error
        if not possible:
            raise InputError(f"{path}: is damaged (shape {z} {y} {x}); {_REPLACE}")

    def _read_tables(self) -> None:
        manifest = read_manifest(self.root / MANIFEST)
        stored = manifest[manifest["status"] == STORED].reset_index(drop=True)
        self.is_ct_rate = not TOLD.issubset(manifest)
        ids = whose(stored).assign(shard=[shard_path(name) for name in stored["name"].tolist()])
        self.manifest = ids.join(stored[stored.columns.difference(ids.columns, sort=False)])
        self.synthetic = self._is_synthetic()
        self.labels = read_labels(self.root / LABELS)
        self.findings: tuple[str, ...] = tuple(self.labels.columns[1:])
        self._row = {name: row for row, name in enumerate(self.labels["name"])}
        self._hashes = self.manifest["voxels_sha256"].tolist()
        self._verified = _Flags(len(self._hashes))
        if self.names != list(self._row):
            pairs = zip_longest(self.names, self._row)
            name, labelled = next(pair for pair in pairs if pair[0] != pair[1])
            raise InputError(
                f"{self.root / LABELS}: does not fit {MANIFEST}, which has {name} where it has "
                f"{labelled}; {_RESTORE}"
            )

    def _is_synthetic(self) -> bool:
        if "source_notes" not in self.manifest:
            return False
        synthetic = self.manifest["source_notes"].map(is_synthetic).to_numpy(dtype=bool)
        if synthetic.any() and not synthetic.all():
            names = self.manifest["name"]
            raise mixed_with_synthetic(
                self.root, names[synthetic].iloc[0], names[~synthetic].iloc[0]
            )
        return bool(synthetic.any())

    def check_trained_on(self, about: Mapping[str, Any]) -> None:
        """Refuse a model that knows other volumes, labels or findings than these.

        Args:
            about: from its checkpoint.

        Raises:
            InputError: it was trained on others.
        """
        if self.recipe != about["preprocess"]:
            raise InputError(
                f"{self.root} was made by another recipe than the checkpoint was trained on; run "
                "`dvc repro`"
            )
        if list(self.findings) != list(about["findings"]):
            raise InputError(
                f"{self.root} has the findings {', '.join(self.findings)}, and the checkpoint was "
                f"trained on {', '.join(about['findings'])}; run `dvc repro`"
            )
        if self.content_hash("train") != about["identity"]["processed"]:
            raise InputError(
                f"{self.root}: the train split's volumes or labels are not those that the "
                "checkpoint was trained on: they were changed or damaged since, or are of another "
                "version; `dvc status` names what differs, and `dvc repro` makes both anew where "
                "needed"
            )

    @property
    def names(self) -> list[str]:
        names: list[str] = self.manifest["name"].tolist()
        return names

    def volumes(self, split: str) -> pd.DataFrame:
        """A split's rows of the manifest and, in columns after them, the findings."""
        joined = self.manifest.merge(self.labels, on="name", validate="one_to_one")
        return joined[joined["split"] == split].reset_index(drop=True)

    def labels_of(self, names: Sequence[str]) -> np.ndarray:
        """(N, F) int64, 0 or 1."""
        rows = [self._row[name] for name in names]
        labels: np.ndarray = self.labels[list(self.findings)].to_numpy()
        return labels[rows]

    def scans_of(self, names: Sequence[str]) -> list[str]:
        """The scan that each volume is a reconstruction of."""
        scans = self.manifest["scan_id"].tolist()
        return [scans[self._row[name]] for name in names]

    def read(self, name: str) -> np.ndarray:
        """One volume: (Z, Y, X) uint8 codes, an array of its own.

        Raises:
            InputError: its shard is missing or damaged, or holds another volume than the manifest
                says.
        """
        shard = self.root / shard_path(name)
        try:
            codes = decode(read_member(shard, name), tuple(self.recipe["shape"]))
        except UNREADABLE as error:
            raise InputError(
                f"{shard}: {name} cannot be read ({error}). The file is damaged: delete it, then "
                f"{_RESTORE}"
            ) from None
        row = self._row[name]
        if not self._verified[row]:
            if hashlib.sha256(codes.data).hexdigest() != self._hashes[row]:
                raise InputError(
                    f"{shard}: {name} does not have the SHA-256 that {MANIFEST} says: one of the "
                    f"two was changed or is of another set; delete both, then {_RESTORE}"
                )
            self._verified.set(row)
        return codes

    def content_hash(self, split: str) -> str:
        """Of a split's voxels, names and labels: what a training on it depends on."""
        content = hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode())
        if self.synthetic:
            content.update(SYNTHETIC.encode())
        volumes = self.volumes(split)
        labels = ["".join(row) for row in volumes[list(self.findings)].astype(str).to_numpy()]
        for row in sorted(zip(volumes["name"], volumes["voxels_sha256"], labels, strict=True)):
            content.update(" ".join(row).encode() + b"\n")
        return content.hexdigest()
