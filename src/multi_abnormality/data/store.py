"""The processed set: every volume ready for training, in few files, read at random.

processed/train/train_00001-00010.zip   volumes of ten patients (shards.py)
processed/manifest.csv                  where each volume came from; present when all is done
processed/labels.csv                    the findings of each
processed/recipe.json                   the preprocess parameters, and the code's hash
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from multi_abnormality.data.names import VolumeName, describe
from multi_abnormality.data.shards import UNREADABLE, decode, read_member, shard_path
from multi_abnormality.errors import InputError

FORMAT = 2  # raised when files of an earlier version can no longer be read
MANIFEST, LABELS, RECIPE = "manifest.csv", "labels.csv", "recipe.json"
TOLD = {"split", "patient_id"}  # of the manifest's columns, where names do not tell it
STORED, EXCLUDED, REJECTED = "stored", "excluded", "rejected"  # a volume's status in the manifest

_RESTORE = "run `dvc pull preprocess` or `dvc repro preprocess`"


def whose(manifest: pd.DataFrame) -> pd.DataFrame:
    """name, split, patient_id, scan_id and reconstruction of a manifest's rows.

    Of CT-RATE's the names tell it. Of others the manifest does, and each volume is a scan.
    """
    if not TOLD.issubset(manifest):
        return pd.DataFrame(describe([VolumeName.parse(name) for name in manifest["name"]]))
    told = manifest[["name", "split", "patient_id"]].reset_index(drop=True)
    return told.assign(scan_id=told["name"], reconstruction=1)


def read_labels(file: Path | BinaryIO) -> pd.DataFrame:
    """labels.csv: name and the findings.

    Raises:
        KeyError: it has no column of names.
        ValueError: it is no such table.
    """
    table = pd.read_csv(file, dtype={"name": str}, keep_default_na=False)
    return table[["name", *table.columns.drop("name")]]


class ProcessedSet:
    """Reads a processed set. Holds no open file, so worker processes can share or copy it.

    Attributes:
        root: its folder.
        recipe: what of params.yaml's preprocess section it was made by.
        findings: the labels' names in their order.
        is_ct_rate: whether the scans were laid out as CT-RATE's.
        manifest: a row a stored volume in natural order: whose it is (split, patient_id, scan_id,
            reconstruction), shard, status, the source's hash, shape, spacing and axes, the
            voxels' hash, and metadata.
        labels: name and the findings, the same rows.

    Raises:
        InputError: it is missing, incomplete, or of another version.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in (MANIFEST, LABELS, RECIPE):
            if not (root / name).exists():
                raise InputError(f"{root / name}: is missing or not finished yet; {_RESTORE}")
        try:
            self._read_tables()
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{root}: {RECIPE}, {MANIFEST} or {LABELS} is damaged ({error!r}); delete the "
                f"three, then {_RESTORE}"
            ) from error
        for shard in self.manifest["shard"].unique():
            if not (root / shard).exists():
                raise InputError(f"{root / shard}: is missing; {_RESTORE}")

    def _read_tables(self) -> None:
        about = json.loads((self.root / RECIPE).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise InputError(
                f"{self.root / RECIPE}: has format {about['format']}, this version reads {FORMAT}; "
                "run `dvc repro preprocess`"
            )
        self.recipe: dict[str, Any] = about["preprocess"]
        manifest = pd.read_csv(self.root / MANIFEST, dtype=str, keep_default_na=False)
        stored = manifest[manifest["status"] == STORED].reset_index(drop=True)
        self.is_ct_rate = not TOLD.issubset(manifest)
        told = whose(stored).assign(shard=[shard_path(name) for name in stored["name"]])
        self.manifest = told.join(stored[stored.columns.difference(told.columns, sort=False)])
        self.labels = read_labels(self.root / LABELS)
        self.findings: tuple[str, ...] = tuple(self.labels.columns[1:])
        self._row = {name: row for row, name in enumerate(self.labels["name"])}
        if not self.findings or self.names != list(self._row):
            raise InputError(f"{self.root / LABELS}: does not fit {MANIFEST}; {_RESTORE}")

    def check_trained_on(self, about: Mapping[str, Any]) -> None:
        """Refuse a model that knows other volumes or findings than these.

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
            InputError: its shard is missing or damaged.
        """
        shard = self.root / shard_path(name)
        try:
            return decode(read_member(shard, name), tuple(self.recipe["shape"]))
        except UNREADABLE as error:
            raise InputError(
                f"{shard}: {name} cannot be read ({error}). The file is damaged: delete it, then "
                f"{_RESTORE}"
            ) from None

    def content_hash(self, split: str) -> str:
        """Of a split's voxels, names and labels: what a training on it depends on."""
        content = hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode())
        volumes = self.volumes(split)
        labels = volumes[list(self.findings)].astype(str).agg("".join, axis=1)
        for row in sorted(zip(volumes["name"], volumes["voxels_sha256"], labels, strict=True)):
            content.update(" ".join(row).encode() + b"\n")
        return content.hexdigest()
