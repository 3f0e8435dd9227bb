"""The processed set: preprocessed volumes in few files, with random access.

processed/train/train_00001-00010.zip   volumes of ten patients (shards.py)
processed/manifest.csv                  source of each volume; exists only when the set is complete
processed/labels.csv                    findings of each volume; a missing label is an empty cell
processed/recipe.json                   preprocess parameters, and the hash of the code
"""

import hashlib
import json
import mmap
from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from multi_abnormality.data.catalog.catalog import FOLD
from multi_abnormality.data.catalog.volume_id import SPLITS, VAL, VolumeName, describe_volume
from multi_abnormality.data.io.scan import SYNTHETIC
from multi_abnormality.data.storage.shards import UNREADABLE, decode, read_member, shard_path
from multi_abnormality.utils.errors import InputError, raise_errors
from multi_abnormality.utils.strict_csv import parse_rows, read_rows, repeated, truncate

FORMAT = 3  # incremented when files of an earlier version can no longer be read
MANIFEST, LABELS, RECIPE = "manifest.csv", "labels.csv", "recipe.json"
ID_COLUMNS = {"split", "patient_id"}  # in the manifest only if names do not encode them
NO_FOLD = "no fold"  # split of the volumes that are in no fold, while one is held out
STORED, EXCLUDED, REJECTED = "stored", "excluded", "rejected"  # a volume's status in the manifest

_RESTORE = "run `dvc pull preprocess` or `dvc repro preprocess`"
_REPLACE = f"delete it, then {_RESTORE}"
_NEEDED = ("name", "status", "source_sha256", "voxels_sha256")  # columns of every manifest
_MAX_VOLUME = 1 << 30  # voxels; a recipe with more is damaged, and would exhaust memory


def add_scan_ids(manifest: pd.DataFrame, fold: int | None = None) -> pd.DataFrame:
    """Return name, split, patient_id, scan_id and reconstruction for the rows of a manifest.

    CT-RATE's names encode them. Otherwise the manifest has the columns, and each volume is a scan.

    Args:
        manifest: result of read_manifest.
        fold: fold that is held out; None: the splits are those of the dataset.

    Raises:
        InputError: there is no such fold.
    """
    if not ID_COLUMNS.issubset(manifest):
        ids = pd.DataFrame(
            describe_volume([VolumeName.parse(name) for name in manifest["name"].tolist()])
        )
    else:
        ids = manifest[["name", "split", "patient_id"]].reset_index(drop=True)
        ids = ids.assign(scan_id=ids["name"], reconstruction=1)
    if fold is None:
        return ids
    given = manifest.get(FOLD, pd.Series("", manifest.index)).to_numpy()
    return ids.assign(split=fold_split(ids.assign(**{FOLD: given}), fold))


def fold_split(volumes: pd.DataFrame, fold: int) -> pd.Series:
    """Return the split of each volume while a fold is held out: train, test or NO_FOLD.

    Args:
        volumes: a row per volume, with patient_id and FOLD.
        fold: the fold.

    Raises:
        InputError: there is no such fold, or a patient is in two.
    """
    held_out, is_in_fold = volumes[FOLD] == str(fold), volumes[FOLD] != ""
    if not held_out.any():
        raise InputError(
            f"data.fold: there is no fold {fold} among the processed volumes; {_RESTORE}"
        )
    if both := set(volumes["patient_id"][held_out]) & set(volumes["patient_id"][~held_out]):
        raise InputError(
            f"processed/{MANIFEST}: is damaged: patient {min(both)!r} is in fold {fold} and out of "
            f"it; {_REPLACE}"
        )
    names = np.where(held_out, "test", np.where(is_in_fold, "train", NO_FOLD))
    return pd.Series(names, volumes.index)


def read_labels(file: Path | BinaryIO, name: str = f"processed/{LABELS}") -> pd.DataFrame:
    """Read labels.csv: name and the findings, 0 or 1, and NaN where a label is missing.

    Args:
        file: path, or an open file.
        name: name of an open file in errors.

    Raises:
        InputError: lists every wrong cell and repeated row, with its line.
    """
    name = str(file) if isinstance(file, Path) else name
    table, errors = _read_table(file, name, ("name",))
    cells = table.drop(columns="name")
    positive, missing = ((cells == text).to_numpy(dtype=bool) for text in ("1", ""))
    wrong = ~positive & ~missing & ~(cells == "0").to_numpy(dtype=bool)
    errors += truncate(
        [
            f"{name}, line {table.index[row]}, column {cells.columns[column]!r}: "
            f"{cells.iat[row, column]!r} is neither 0 nor 1 nor empty"
            for row, column in zip(*wrong.nonzero(), strict=True)
        ]
    )
    if cells.columns.empty:
        errors.append(f"{name}, line 1: has no findings")
    raise_errors(errors, f"{name}: is damaged; {_REPLACE}")
    columns = {
        finding: np.where(absent, np.nan, present) if absent.any() else present.astype("int64")
        for finding, present, absent in zip(cells.columns, positive.T, missing.T, strict=True)
    }
    return pd.DataFrame({"name": table["name"].array, **columns})


def read_manifest(file: Path | BinaryIO, name: str = f"processed/{MANIFEST}") -> pd.DataFrame:
    """Read manifest.csv, every cell as text. See read_labels for the arguments.

    Raises:
        InputError: lists every missing column, repeated row and wrong cell, with its line.
    """
    name = str(file) if isinstance(file, Path) else name
    table, errors = _read_table(file, name, _NEEDED)
    choices: dict[str, tuple[str, ...]] = {"status": (STORED, EXCLUDED, REJECTED)}
    stored = table[table["status"] == STORED] if "status" in table else table
    if ID_COLUMNS.issubset(table):
        choices["split"] = (*SPLITS, VAL)
        splits = stored.groupby("patient_id")["split"].nunique()
        errors += truncate(
            [
                f"{name}: patient {patient!r} is in two splits"
                if patient
                else f"{name}, column 'patient_id': a cell is empty"
                for patient in splits.index[(splits > 1) | (splits.index == "")]
            ]
        )
    else:
        names = stored["name"]
        errors += truncate(
            [
                f"{name}, line {line}, column 'name': {one!r} is not a CT-RATE volume name, and "
                "the columns split and patient_id are missing"
                for line, one in zip(names.index, names.tolist(), strict=True)
                if not VolumeName.is_name(one)
            ]
        )
    for column, allowed in choices.items():
        cells = (table if column == "status" else stored)[column]
        errors += truncate(
            [
                f"{name}, line {line}, column {column!r}: {cell!r} is not {' or '.join(allowed)}"
                for line, cell in cells[~cells.isin(allowed)].items()
            ]
        )
    raise_errors(errors, f"{name}: is damaged; {_REPLACE}")
    return table.reset_index(drop=True)


def _read_table(
    file: Path | BinaryIO, name: str, needed: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Read a table indexed by line; also return errors for repeated rows.

    Raises:
        InputError: it cannot be read, or a required column is missing or repeated.
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
            f"{', '.join(truncate([*map(repr, again)]))}; {_REPLACE}"
        )
    table = pd.DataFrame(read.rows, read.lines, read.header, dtype=str)
    names = table["name"]
    first = names.drop_duplicates().reset_index().set_index("name")["index"]
    twice = [
        f"{name}, line {line}: {one} is in line {first[one]} already"
        for line, one in names[names.duplicated()].items()
    ]
    return table, read.faults + truncate(twice)


def is_synthetic(notes: str) -> bool:
    """Return whether a volume's `source_notes` mark it as made from a synthetic scan."""
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


class ProcessedDataset:
    """Reader of a processed set. Holds no open file, so worker processes can share or copy it.

    A volume is verified against its hash in the manifest when it is first read.

    Args:
        root: folder of the set.
        fold: value of `data.fold`: the split test is this fold, and train the others.

    Attributes:
        root: folder of the set.
        fold: fold that is held out, if any.
        recipe: preprocess parameters that the set was made with.
        findings: names of the labels, in order.
        is_ct_rate: whether the scans are in CT-RATE's layout.
        synthetic: whether the scans are synthetic phantoms.
        manifest: one row per stored volume in natural order: ids (split, patient_id, scan_id,
            reconstruction), shard, status, hash, shape, spacing and axes of the source, hash of
            the voxels, and metadata.
        labels: name and the findings, in the same rows.

    Raises:
        InputError: the set is missing, incomplete or of another version, or mixes synthetic scans
            with scans of patients.
    """

    def __init__(self, root: Path, fold: int | None = None) -> None:
        self.root = root
        self.fold = fold
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
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise InputError(
                    f"{path}: has format {content['format']}, this version reads {FORMAT}; "
                    "run `dvc repro preprocess`"
                )
            self.recipe: dict[str, Any] = dict(content["preprocess"])
            z, y, x = self.recipe["shape"]
            possible = min(z, y, x) > 0 and z * y * x <= _MAX_VOLUME
        except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: is damaged ({error!r}); {_REPLACE}") from error
        if not possible:
            raise InputError(f"{path}: is damaged (shape {z} {y} {x}); {_REPLACE}")

    def _read_tables(self) -> None:
        manifest = read_manifest(self.root / MANIFEST)
        stored = manifest[manifest["status"] == STORED].reset_index(drop=True)
        self.is_ct_rate = not ID_COLUMNS.issubset(manifest)
        ids = add_scan_ids(stored, self.fold).assign(
            shard=[shard_path(name) for name in stored["name"].tolist()]
        )
        self.manifest = ids.join(stored[stored.columns.difference(ids.columns, sort=False)])
        self.synthetic = self._is_synthetic()
        self.labels = read_labels(self.root / LABELS)
        if self.is_ct_rate and (missing := self.labels.isna().sum()).any():
            raise InputError(
                f"{self.root / LABELS}: is damaged: column {missing.idxmax()!r} has empty cells, "
                f"and CT-RATE's tables have none; {_REPLACE}"
            )
        self.findings: tuple[str, ...] = tuple(self.labels.columns[1:])
        self._row = {name: row for row, name in enumerate(self.labels["name"])}
        self._hashes = self.manifest["voxels_sha256"].tolist()
        # Anonymous memory, which forked worker processes share.
        self._verified = np.frombuffer(mmap.mmap(-1, max(len(self._hashes), 1)), np.bool_)
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

    def check_matches_model(self, metadata: Mapping[str, Any]) -> None:
        """Check that a model was trained on these volumes, labels and findings.

        Args:
            metadata: metadata of the model's checkpoint.

        Raises:
            InputError: the model was trained on others.
        """
        if self.recipe != metadata["preprocess"]:
            raise InputError(
                f"{self.root} was made by another recipe than the checkpoint was trained on; run "
                "`dvc repro`"
            )
        if list(self.findings) != list(metadata["findings"]):
            raise InputError(
                f"{self.root} has the findings {', '.join(self.findings)}, and the checkpoint was "
                f"trained on {', '.join(metadata['findings'])}; run `dvc repro`"
            )
        if self.content_hash("train") != metadata["identity"]["processed"]:
            raise InputError(
                f"{self.root}: the train split's volumes or labels are not those that the "
                "checkpoint was trained on: they were changed or damaged since, or are of another "
                "version; `dvc status` lists the differences, and `dvc repro` updates both"
            )

    @property
    def names(self) -> list[str]:
        names: list[str] = self.manifest["name"].tolist()
        return names

    def volumes(self, split: str) -> pd.DataFrame:
        """Return a split's rows of the manifest, with the findings as further columns.

        The split train has the val part, too: the scans that a table names so, or those that
        training draws.
        """
        joined = self.manifest.merge(self.labels, on="name", validate="one_to_one")
        names = (split, VAL) if split == "train" else (split,)
        return joined[joined["split"].isin(names)].reset_index(drop=True)

    def labels_of(self, names: Sequence[str], without: Collection[str] = ()) -> np.ndarray:
        """Return the labels of these volumes: (N, F) int64, or float64 if one is missing: NaN.

        Args:
            names: names of the volumes.
            without: findings whose labels are left out: NaN.
        """
        rows = [self._row[name] for name in names]
        labels: np.ndarray = self.labels[list(self.findings)].to_numpy()[rows]
        left_out = [finding in without for finding in self.findings]
        return np.where(left_out, np.nan, labels) if without else labels

    def scans_of(self, names: Sequence[str]) -> list[str]:
        """Return the scan id of each volume."""
        scans = self.manifest["scan_id"].tolist()
        return [scans[self._row[name]] for name in names]

    def read(self, name: str) -> np.ndarray:
        """Read one volume: (Z, Y, X) uint8 codes, a new array.

        Raises:
            InputError: its shard is missing or damaged, or its hash is not the manifest's.
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
                    f"{shard}: {name} does not have the SHA-256 that {MANIFEST} lists: one of the "
                    f"two was changed or is of another set; delete both, then {_RESTORE}"
                )
            self._verified[row] = True
        return codes

    def content_hash(self, split: str) -> str:
        """Hash all data that a training run depends on: voxels, labels, names, scans, patients."""
        content = hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode())
        if self.synthetic:
            content.update(SYNTHETIC.encode())
        volumes = self.volumes(split)
        codes = volumes[list(self.findings)].fillna(2).astype("int64")  # 2: missing
        labels = ["".join(row) for row in codes.astype(str).to_numpy()]
        names = ["name", "voxels_sha256", "scan_id", "patient_id"]
        names += ["split"] if (volumes["split"] == VAL).any() else []
        columns = (volumes[name] for name in names)
        for row in sorted(zip(*columns, labels, strict=True)):
            content.update(" ".join(row).encode() + b"\n")
        return content.hexdigest()
