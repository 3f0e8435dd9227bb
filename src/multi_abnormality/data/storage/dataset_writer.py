"""Crash-safe, resumable writer of processed sets.

A finished volume is first written as a part, a file of its own; a shard replaces its parts once
all of them exist. The manifest is removed first and written last: if it exists, the set is
complete. All files in the folder were made with its recipe.json, so a new recipe empties the
folder. The finished folder depends only on its volumes, not on how many runs wrote them.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import numpy as np
import pandas as pd

from multi_abnormality.config.schema import PreprocessSpec
from multi_abnormality.data.catalog.catalog import FOLD, GROUPS, Catalog
from multi_abnormality.data.catalog.placeholders import SUFFIX, is_placeholder
from multi_abnormality.data.io.read import Volume
from multi_abnormality.data.io.series_metadata import Series
from multi_abnormality.data.storage.processed_dataset import (
    EXCLUDED,
    FORMAT,
    ID_COLUMNS,
    LABELS,
    MANIFEST,
    RECIPE,
    REJECTED,
    STORED,
)
from multi_abnormality.data.storage.shards import (
    FOLDERS,
    Provenance,
    ShardEntry,
    encode,
    pack,
    read_shard,
    shard_path,
)
from multi_abnormality.utils.atomic_io import atomic_write
from multi_abnormality.utils.code_hash import code_hashes
from multi_abnormality.utils.errors import InputError

log = logging.getLogger(__name__)

PARTS = ".parts"
MAX_PART_NAME = 150  # characters: with the suffixes, short enough for every file system


def write_part(
    root: Path,
    name: str,
    source_sha256: str,
    source: Volume,
    codes: np.ndarray,
    series: Series | None = None,
) -> Provenance:
    """Write a finished volume, codes (Z, Y, X) uint8, as a part.

    Safe to call from several processes, even for the same volume: on a cluster, a worker presumed
    lost may still run while another repeats its task.
    """
    origin = Provenance(
        source_sha256=source_sha256,
        source_shape=" ".join(str(count) for count in source.original_shape),
        source_spacing=" ".join(f"{mm:.6g}" for mm in source.original_spacing),
        source_axes=source.original_axes,
        source_release=source.release,
        source_series=series.text if series else "",
        source_notes="; ".join(source.notes),
        voxels_sha256=hashlib.sha256(codes.tobytes()).hexdigest(),
    )
    content = pack({name: ShardEntry(origin, encode(codes))})
    part = _part(root, name)
    fresh = part.with_suffix(f".{uuid4().hex}")
    atomic_write(content, fresh)
    fresh.replace(part)
    return origin


class DatasetWriter:
    """Updates a processed set to match a catalogue. Only one writer per folder at a time.

    Attributes:
        origins: provenance of each volume in the folder, by name.
    """

    def __init__(self, root: Path, recipe: PreprocessSpec, is_ct_rate: bool = True) -> None:
        self.root = root
        self.origins: dict[str, Provenance] = {}
        self._parts: set[str] = set()
        self._complete: dict[Path, set[str]] = {}  # names in each undamaged shard
        for table in (MANIFEST, LABELS):
            (root / table).unlink(missing_ok=True)
        content = recipe_content(recipe, is_ct_rate)
        recipe_file = root / RECIPE
        if not recipe_file.exists() or recipe_file.read_bytes() != content:
            self._clear()
            atomic_write(content, recipe_file)
        self._index_existing()

    def add(self, name: str, origin: Provenance) -> None:
        """Register a volume that write_part has written."""
        self.origins[name] = origin
        self._parts.add(name)

    def assemble(self, names: Iterable[str]) -> None:
        """Write the shard with exactly these volumes, unless it exists already."""
        requested = set(names)
        shard = self.root / shard_path(min(requested))
        fresh = requested & self._parts
        if fresh or self._complete.get(shard) != requested:
            members = read_shard(shard)[0] if requested - fresh else {}
            for name in fresh:
                members.update(read_shard(_part(self.root, name))[0])
            atomic_write(pack({name: members[name] for name in requested}), shard)
            self._complete[shard] = requested
        for name in fresh:
            self._parts.discard(name)
            _part(self.root, name).unlink()

    def finish(self, catalogue: Catalog, rejected: Mapping[str, str]) -> None:
        """Remove shards without a volume of the catalogue, then write the tables.

        Args:
            catalogue: catalogue of the stored volumes.
            rejected: for volumes that are not stored, the reason by name.
        """
        shards = {shard_path(name) for name in catalogue.volumes["name"]}
        for name in FOLDERS:
            folder = self.root / name
            for path in folder.glob("*"):
                if path.relative_to(self.root).as_posix() not in shards:
                    path.unlink()
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
        if (self.root / PARTS).exists():
            shutil.rmtree(self.root / PARTS)
        labels = catalogue.volumes[list(catalogue.findings)].astype("Int64")  # missing: empty
        labels.insert(0, "name", catalogue.volumes["name"])
        _write_table(labels, self.root / LABELS)
        _write_table(self._manifest(catalogue, rejected), self.root / MANIFEST)

    def _clear(self) -> None:
        for name in (*FOLDERS, PARTS):
            if (self.root / name).exists():
                shutil.rmtree(self.root / name)

    def _index_existing(self) -> None:
        """Index finished volumes. Damaged files are ignored; a part is newer than its shard."""
        for path in sorted(self.root.glob("*/*.zip")):
            if path.parent.name not in (*FOLDERS, PARTS):
                continue
            members, is_complete = read_shard(path)
            if is_complete:
                self._complete[path] = set(members)
            else:
                log.warning("%s is damaged: its unreadable volumes are processed again", path)
            is_part = path.parent.name == PARTS
            for name, member in members.items():
                if is_part or name not in self._parts:
                    self.origins[name] = member.origin
                if is_part:
                    self._parts.add(name)

    def _manifest(self, catalogue: Catalog, rejected: Mapping[str, str]) -> pd.DataFrame:
        volumes = catalogue.volumes
        stored = volumes[["name"]].assign(status=STORED, reason="")
        # A backup uploads the whole table for each added volume, so it repeats neither what names
        # encode nor the metadata that shards hold.
        for column in (field.name for field in fields(Provenance) if field.name != "source_series"):
            stored[column] = [getattr(self.origins[name], column) for name in volumes["name"]]
        stored = stored.join(volumes[list(GROUPS)])
        if not catalogue.source.is_ct_rate:
            stored = stored.join(volumes[sorted(ID_COLUMNS)])
        if FOLD in volumes:
            stored = stored.join(volumes[[FOLD]])
        left_out = [(name, EXCLUDED, "no chest") for name in catalogue.excluded]
        left_out += [(name, REJECTED, reason) for name, reason in rejected.items()]
        return pd.concat([stored, pd.DataFrame(left_out, columns=["name", "status", "reason"])])


def _part(root: Path, name: str) -> Path:
    """Return the path of a volume's part. Names may contain slashes or be too long for a file."""
    plain = quote(name, safe="")
    if len(plain) > MAX_PART_NAME:
        plain = hashlib.sha256(name.encode()).hexdigest()
    return root / PARTS / f"{plain}.zip"


def _write_table(table: pd.DataFrame, path: Path) -> None:
    atomic_write(table.to_csv(index=False, lineterminator="\n").encode(), path)


# Code that determines the voxels: these files, and what they import of the package.
_ROOTS = ("data/preprocessing/resample.py", "data/io/read.py", "data/io/nifti.py")
_IGNORED = ("__init__", "config/", "utils/")
# CT-RATE is NIfTI: changes of other readers do not affect it. Custom data may be of any format.
_OTHER_FORMATS = ("data/io/dicom", "data/io/reader_registry", "data/io/scan_sources")


def recipe_content(recipe: PreprocessSpec, is_ct_rate: bool) -> bytes:
    """Return the content of recipe.json."""
    preprocess = recipe.model_dump(mode="json")
    code = _code_hash(is_ct_rate)
    content = {"format": FORMAT, "code": code, "preprocess": preprocess}
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


@cache
def _code_hash(is_ct_rate: bool) -> str:
    """Hash the code that determines the voxels: volumes made by other code are not kept."""
    package = Path(__file__).parents[2]
    roots = list(_ROOTS)
    ignored: tuple[str, ...] = _IGNORED + _OTHER_FORMATS
    if not is_ct_rate:
        roots += [f"data/io/{path.name}" for path in (package / "data/io").glob("*.py")]
        ignored = _IGNORED
    hashes = code_hashes(package, roots, ignored)
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def check_catalog_replaceable(
    catalogue: Catalog, data: Path, root: Path, recipe: PreprocessSpec
) -> None:
    """Refuse to empty a folder with the only copy of a catalogue's deleted scans.

    Raises:
        InputError: as check_replaceable.
    """
    is_ct_rate = catalogue.source.is_ct_rate
    # Custom scans would replace processed CT-RATE scans, so CT-RATE's placeholders count too.
    sources = map(Path, catalogue.volumes["path"]) if is_ct_rate else data.rglob(f"*{SUFFIX}")
    check_replaceable(sources, root, recipe, is_ct_rate)


def check_replaceable(
    sources: Iterable[Path], root: Path, recipe: PreprocessSpec, is_ct_rate: bool = True
) -> None:
    """Refuse to empty a folder with the only copy of deleted volumes.

    Raises:
        InputError: the recipe has changed, and some volumes exist only as placeholders.
    """
    recipe_file = root / RECIPE
    if not recipe_file.exists() or recipe_file.read_bytes() == recipe_content(recipe, is_ct_rate):
        return
    gone = sum(is_placeholder(source) for source in sources)
    if gone:
        raise InputError(
            f"{root}/: was made by other preprocess parameters or by another version of the code, "
            f"and {gone} of its volumes were deleted after they were processed. Put params.yaml "
            f"and the code back as they were; or move {root}/ away, and fetch the volumes again by "
            "`multi-abnormality download ... --then-preprocess`"
        )
