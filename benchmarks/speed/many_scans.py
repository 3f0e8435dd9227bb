"""Processed dataset with a test split of any size."""

import shutil
from collections import defaultdict
from itertools import cycle
from pathlib import Path

import pandas as pd

from multi_abnormality.data.storage.processed_dataset import LABELS, MANIFEST, STORED
from multi_abnormality.data.storage.shards import ShardEntry, pack, read_shard, shard_path


def write_many_scans(given: Path, root: Path, scans: int) -> Path:
    """Copy a dataset, its test volumes repeated as new patients with one volume each.

    Args:
        given: directory of a complete dataset.
        root: directory of the new dataset; must not exist.
        scans: number of scans in the new test split.
    """
    shutil.copytree(given, root, ignore=shutil.ignore_patterns("valid_*.zip"))
    manifest, labels = (
        pd.read_csv(given / name, dtype=str, keep_default_na=False).set_index("name")
        for name in (MANIFEST, LABELS)
    )
    is_valid = manifest.index.str.startswith("valid_") & (manifest["status"] == STORED)
    again = zip(range(1, scans + 1), cycle(manifest.index[is_valid]), strict=False)
    old = {f"valid_{number}_a_1": name for number, name in again}
    members: dict[str, ShardEntry] = {}
    for shard in sorted((given / "valid").glob("*.zip")):
        members |= read_shard(shard)[0]
    shards: dict[str, dict[str, ShardEntry]] = defaultdict(dict)
    for new, name in old.items():
        shards[shard_path(new)][new] = members[name]
    for path, content in shards.items():
        (root / path).write_bytes(pack(content))
    for path, table in ((MANIFEST, manifest), (LABELS, labels)):
        repeated = table.loc[list(old.values())].set_axis(pd.Index(list(old), name="name"))
        pd.concat([table[table.index.str.startswith("train_")], repeated]).to_csv(root / path)
    return root
