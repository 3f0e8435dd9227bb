from pathlib import Path

import pytest

from multi_abnormality.utils.atomic_io import atomic_write, write_json


def test_the_next_write_removes_what_a_kill_left(tmp_path: Path):
    path = tmp_path / "a folder" / "scores.json"
    path.parent.mkdir()
    path.with_name(".scores.json.tmp").write_bytes(b"half of something longer")
    atomic_write(b"whole", path)
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "scores.json"
    write_json({"auroc": 0.5}, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"auroc": float("nan")}, path)
    with pytest.raises(TypeError):
        atomic_write("text", path)  # fails with the temporary file open
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
