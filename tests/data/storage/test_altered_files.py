"""Detection of a single altered byte in any file of a processed set."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dvc.repo import Repo

from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.data.storage.shards import ShardEntry, encode, pack, read_shard
from multi_abnormality.utils.errors import InputError


@pytest.fixture
def copy(tmp_path: Path, small_set: ProcessedDataset) -> Path:
    return Path(shutil.copytree(small_set.root, tmp_path / "processed"))


def content(root: Path, split: str) -> tuple[str, str]:
    """Content of a split, and the part of it that a checkpoint stores: a hash and the findings."""
    processed = ProcessedDataset(root)
    volumes = processed.volumes(split)
    voxels = hashlib.sha256()
    for name in volumes["name"]:
        voxels.update(processed.read(name))
    labels = processed.labels_of(volumes["name"].tolist())
    return (
        f"{volumes.to_csv()} {processed.recipe} {processed.findings} {voxels.hexdigest()} "
        f"{labels.tolist()}",
        f"{processed.content_hash(split)} {processed.findings}",
    )


def flips(path: Path, count: int) -> Iterator[int]:
    """Alter one byte at a time, at offsets spread over a file, and restore it afterwards."""
    whole = path.read_bytes()
    for offset in np.unique(np.linspace(0, len(whole) - 1, count, dtype=int)).tolist():
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
        yield offset
    path.write_bytes(whole)


def test_every_altered_byte_of_a_shard_is_an_error_or_changes_nothing(copy: Path) -> None:
    before = content(copy, "train")
    noticed = 0
    shard = copy / "train/train_00001-00010.zip"
    for offset in flips(shard, 60):
        try:
            now = content(copy, "train")
        except InputError:
            noticed += 1
        else:
            assert now == before, offset
    assert noticed > 30  # the rest are fields of the ZIP format that are never read


@pytest.mark.parametrize("table", ["manifest.csv", "labels.csv"])
def test_an_altered_byte_of_a_table_is_an_error_or_another_content_hash(
    copy: Path, table: str
) -> None:
    """Except other columns of the manifest and the test split, which only DVC checks."""
    all_before, known_before = content(copy, "train")
    found = {"error": 0, "known": 0}
    for offset in flips(copy / table, 40):
        try:
            all_now, known_now = content(copy, "train")
        except InputError:
            found["error"] += 1
            continue
        found["known"] += known_now != known_before
        if table == "labels.csv":
            assert (all_now == all_before) == (known_now == known_before), offset
    assert found["error"] > 5
    assert table == "manifest.csv" or found["known"] > 5


def test_another_volume_under_a_name_is_refused(copy: Path) -> None:
    """Such as a valid shard of another version of the set."""
    shard = copy / "train/train_00001-00010.zip"
    members, _ = read_shard(shard)
    name = next(iter(members))
    other = np.zeros(tuple(ProcessedDataset(copy).recipe["shape"]), np.uint8)
    members[name] = ShardEntry(members[name].origin, encode(other))
    shard.write_bytes(pack(members))
    processed = ProcessedDataset(copy)
    with pytest.raises(InputError, match=r"does not have the SHA-256 that manifest\.csv lists"):
        processed.read(name)
    processed.read(next(other for other in members if other != name))


def test_a_volume_is_verified_once_by_all_processes(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processed = ProcessedDataset(copy)
    name = processed.names[0]
    if (child := os.fork()) == 0:
        processed.read(name)
        os._exit(0)
    os.waitpid(child, 0)
    monkeypatch.setattr(hashlib, "sha256", None)
    processed.read(name)
    with pytest.raises(TypeError):
        processed.read(processed.names[1])


def test_a_checkpoint_of_other_labels_is_refused(copy: Path) -> None:
    processed = ProcessedDataset(copy)
    about = {
        "preprocess": processed.recipe,
        "findings": processed.findings,
        "identity": {"processed": processed.content_hash("train")},
    }
    processed.check_matches_model(about)
    table = copy / "labels.csv"
    lines = table.read_text().splitlines(keepends=True)
    first = lines[1].rstrip("\n")
    lines[1] = first[:-1] + ("0" if first.endswith("1") else "1") + "\n"
    table.write_text("".join(lines))
    with pytest.raises(InputError, match="are not those that the checkpoint was trained on"):
        ProcessedDataset(copy).check_matches_model(about)


def test_dvc_detects_every_byte(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dvc status` and `dvc repro` use the folder's hash in dvc.lock."""
    monkeypatch.chdir(copy.parent)
    Repo.init(no_scm=True).close()
    stages = {"train": {"cmd": "echo", "deps": ["processed"]}}
    Path("dvc.yaml").write_text(json.dumps({"stages": stages}))
    with Repo() as repo:
        repo.reproduce()
        assert repo.status() == {}
        for name in ("manifest.csv", "labels.csv", "recipe.json", "valid/valid_00001-00010.zip"):
            for _ in flips(copy / name, 3):
                assert repo.status() == {"train": [{"changed deps": {"processed": "modified"}}]}
        assert repo.status() == {}
