"""Making a processed set so that it can be killed anywhere and gone on with.

A finished volume is first a part, a file of its own; a shard replaces its parts when all of them
are there. The manifest goes first and comes back last: where it is, the set is complete. What
lies in the folder was always made by its recipe.json, so another recipe empties the folder. The
finished folder depends on the volumes in it alone, not on the runs that made it.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import numpy as np
import pandas as pd

from multi_abnormality.data.catalogue import Catalogue
from multi_abnormality.data.io.read import Volume
from multi_abnormality.data.io.series_metadata import Series
from multi_abnormality.data.metadata_table import GROUPS
from multi_abnormality.data.shards import (
    FOLDERS,
    Member,
    Origin,
    encode,
    pack,
    read_shard,
    shard_path,
)
from multi_abnormality.data.store import (
    EXCLUDED,
    LABELS,
    MANIFEST,
    RECIPE,
    REJECTED,
    STORED,
    TOLD,
)
from multi_abnormality.data.store_recipe import recipe_content
from multi_abnormality.files import write_durably
from multi_abnormality.params_preprocess import Recipe

log = logging.getLogger(__name__)

PARTS = ".parts"
LONGEST = 150  # characters of a part's name: with what is added, no file system refuses it


def write_part(
    root: Path,
    name: str,
    source_sha256: str,
    source: Volume,
    codes: np.ndarray,
    series: Series | None = None,
) -> Origin:
    """Keep a finished volume, codes (Z, Y, X) uint8.

    Several processes may do so at a time, with the same volume too: on a cluster a worker that
    was given up may go on beside the one that does its work again.
    """
    origin = Origin(
        source_sha256=source_sha256,
        source_shape=" ".join(str(count) for count in source.original_shape),
        source_spacing=" ".join(f"{mm:.6g}" for mm in source.original_spacing),
        source_axes=source.original_axes,
        source_release=source.release,
        source_series=series.text if series else "",
        source_notes="; ".join(source.notes),
        voxels_sha256=hashlib.sha256(codes.tobytes()).hexdigest(),
    )
    content = pack({name: Member(origin, encode(codes))})
    part = _part(root, name)
    fresh = part.with_suffix(f".{uuid4().hex}")
    write_durably(content, fresh)
    fresh.replace(part)
    return origin


class StoreWriter:
    """Brings a processed set in line with a catalogue. One at a time for a folder.

    Attributes:
        origins: what each volume that the folder already holds was made of, by name.
    """

    def __init__(self, root: Path, recipe: Recipe, is_ct_rate: bool = True) -> None:
        self.root = root
        self.origins: dict[str, Origin] = {}
        self._parts: set[str] = set()
        self._whole: dict[Path, set[str]] = {}  # names in each undamaged shard
        for table in (MANIFEST, LABELS):
            (root / table).unlink(missing_ok=True)
        content = recipe_content(recipe, is_ct_rate)
        recipe_file = root / RECIPE
        if not recipe_file.exists() or recipe_file.read_bytes() != content:
            self._empty()
            write_durably(content, recipe_file)
        self._take_stock()

    def add(self, name: str, origin: Origin) -> None:
        """Take over a volume that write_part has kept."""
        self.origins[name] = origin
        self._parts.add(name)

    def assemble(self, names: Iterable[str]) -> None:
        """Write the shard that holds exactly these volumes, unless it does already."""
        wanted = set(names)
        shard = self.root / shard_path(min(wanted))
        fresh = wanted & self._parts
        if fresh or self._whole.get(shard) != wanted:
            members = read_shard(shard)[0] if wanted - fresh else {}
            for name in fresh:
                members.update(read_shard(_part(self.root, name))[0])
            write_durably(pack({name: members[name] for name in wanted}), shard)
            self._whole[shard] = wanted
        for name in fresh:
            self._parts.discard(name)
            _part(self.root, name).unlink()

    def finish(self, catalogue: Catalogue, rejected: Mapping[str, str]) -> None:
        """Remove what the catalogue does not name, then write the tables.

        Args:
            catalogue: of the volumes that are stored.
            rejected: the reason why others are not, by name.
        """
        wanted = {shard_path(name) for name in catalogue.volumes["name"]}
        for name in FOLDERS:
            folder = self.root / name
            for path in folder.glob("*"):
                if path.relative_to(self.root).as_posix() not in wanted:
                    path.unlink()
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
        if (self.root / PARTS).exists():
            shutil.rmtree(self.root / PARTS)
        _write_table(catalogue.volumes[["name", *catalogue.findings]], self.root / LABELS)
        _write_table(self._manifest(catalogue, rejected), self.root / MANIFEST)

    def _empty(self) -> None:
        for name in (*FOLDERS, PARTS):
            if (self.root / name).exists():
                shutil.rmtree(self.root / name)

    def _take_stock(self) -> None:
        """Find what is done. A damaged file counts as not done; a part is newer than its shard."""
        for path in sorted(self.root.glob("*/*.zip")):
            if path.parent.name not in (*FOLDERS, PARTS):
                continue
            members, whole = read_shard(path)
            if whole:
                self._whole[path] = set(members)
            else:
                log.warning("%s is damaged: what cannot be read of it is done again", path)
            is_part = path.parent.name == PARTS
            for name, member in members.items():
                if is_part or name not in self._parts:
                    self.origins[name] = member.origin
                if is_part:
                    self._parts.add(name)

    def _manifest(self, catalogue: Catalogue, rejected: Mapping[str, str]) -> pd.DataFrame:
        volumes = catalogue.volumes
        stored = volumes[["name"]].assign(status=STORED, reason="")
        # The whole table goes up anew with each volume that is added: neither what names say nor
        # what the shards keep of the metadata tables is repeated here.
        for column in (field.name for field in fields(Origin) if field.name != "source_series"):
            stored[column] = [getattr(self.origins[name], column) for name in volumes["name"]]
        stored = stored.join(volumes[list(GROUPS)])
        if not catalogue.source.is_ct_rate:
            stored = stored.join(volumes[sorted(TOLD)])
        left_out = [(name, EXCLUDED, "no chest") for name in catalogue.excluded]
        left_out += [(name, REJECTED, reason) for name, reason in rejected.items()]
        return pd.concat([stored, pd.DataFrame(left_out, columns=["name", "status", "reason"])])


def _part(root: Path, name: str) -> Path:
    """Of a volume whose name may have slashes in it, and be longer than a file's."""
    plain = quote(name, safe="")
    if len(plain) > LONGEST:
        plain = hashlib.sha256(name.encode()).hexdigest()
    return root / PARTS / f"{plain}.zip"


def _write_table(table: pd.DataFrame, path: Path) -> None:
    write_durably(table.to_csv(index=False, lineterminator="\n").encode(), path)
