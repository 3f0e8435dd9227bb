"""Invalid shards of encoded features are deleted, with a warning."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from multi_abnormality.data.loading.feature_store import FeatureStore, _digest


@pytest.mark.parametrize(
    ("rows", "names", "dtype"),
    [(2, 1, "float16"), (1, 2, "float16"), (1, 1, "float32"), (0, 0, "float16")],
)
def test_shards_of_another_form_are_deleted(
    rows: int, names: int, dtype: str, tmp_path: Path, caplog
):
    volumes, features = ["a", "b"][:names], np.zeros((rows, 4, 3), dtype)
    metadata = json.dumps({"sha256": _digest(volumes, features), "names": volumes})
    shard = tmp_path / "shard.safetensors"
    safetensors.numpy.save_file({"features": features}, shard, {"volumes": metadata})
    store = FeatureStore(tmp_path, {})
    store.open()
    assert not store.locations
    assert not shard.exists()
    assert "is damaged" in caplog.text


def test_folders_are_skipped_and_nested_metadata_is_damage(tmp_path: Path):
    (tmp_path / "folder.safetensors").mkdir()
    shard = tmp_path / "shard.safetensors"
    metadata = {"volumes": "[" * 100_000}
    safetensors.numpy.save_file({"features": np.zeros((1, 4, 3), "float16")}, shard, metadata)
    FeatureStore(tmp_path, {}).open()
    assert [path.name for path in tmp_path.iterdir()] == ["folder.safetensors"]
