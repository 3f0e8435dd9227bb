"""Cached hashes are used only while the files are unchanged."""

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest

from chest_files import put_pixels, stored, write_metaimage, write_nifti, write_series
from multi_abnormality.data.storage.file_hashes import FileHashCache, FileStat, hash_scan
from multi_abnormality.utils.errors import InputError, UnusableScan


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_old(tmp_path / "Säule 1" / "train_1_a_1.nii.gz", b"first")


def write_old(path: Path, content: bytes, age: int = 3600) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return turn_back(path, age)


def turn_back(path: Path, age: int = 3600) -> Path:
    os.utime(path, (time.time() - age,) * 2)
    return path


def hash_all(paths: list[Path], memory: Path) -> None:
    with FileHashCache(memory) as hashes:
        for path in paths:
            hashes.note(path, hash_scan(path))


@pytest.fixture
def memory(tmp_path: Path, scan: Path) -> Path:
    """A cache with the scan."""
    path = tmp_path / "tmp/source_hashes.json"
    assert FileHashCache(path).known(scan) is None
    hash_all([scan], path)
    return path


def test_an_unchanged_file_is_known_in_the_next_run(memory: Path, scan: Path) -> None:
    assert FileHashCache(memory).known(scan) == hashlib.sha256(b"first").hexdigest()


def test_another_file_of_the_same_size_and_time_is_not_known(memory: Path, scan: Path) -> None:
    """A copy that preserves times, written into the file or replacing it."""
    times = scan.stat().st_atime_ns, scan.stat().st_mtime_ns
    scan.write_bytes(b"other")
    os.utime(scan, ns=times)
    assert scan.stat().st_mtime_ns == times[1]
    assert FileHashCache(memory).known(scan) is None

    copy = scan.with_name("copy")
    shutil.copy2(scan, copy)
    copy.replace(scan)
    assert FileHashCache(memory).known(scan) is None


@pytest.mark.parametrize("content", [b"first and more", b"", b"FIRST"])
def test_a_file_written_again_is_not_known(memory: Path, scan: Path, content: bytes) -> None:
    scan.write_bytes(content)

    assert FileHashCache(memory).known(scan) is None


def test_a_touched_a_missing_and_a_new_file_are_not_known(memory: Path, scan: Path) -> None:
    hashes = FileHashCache(memory)
    assert hashes.known(write_old(scan.with_name("new"), b"first")) is None
    turn_back(scan, age=7200)
    assert hashes.known(scan) is None
    scan.unlink()
    assert hashes.known(scan) is None
    with pytest.raises(InputError, match="train_1_a_1"):
        hash_scan(scan)


def test_a_file_written_just_now_is_not_cached(tmp_path: Path) -> None:
    """Its next change could have the same timestamp."""
    fresh = tmp_path / "train_2_a_1.nii.gz"
    fresh.write_bytes(b"half")
    hash_all([fresh], tmp_path / "memory.json")

    assert FileHashCache(tmp_path / "memory.json").known(fresh) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\xff", b"[]", b'{"a": 1}', b'{"a": [1, 2]}', b'{"a": [1, 2, 3, "b", "c"]}'],
)
def test_a_damaged_cache_is_discarded_with_a_warning(
    memory: Path, scan: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    memory.write_bytes(content)

    hashes = FileHashCache(memory)

    assert hashes.known(scan) is None
    assert "is damaged" in caplog.text
    hash_all([scan], memory)
    assert FileHashCache(memory).known(scan)


def test_hashes_before_an_error_are_cached(memory: Path, scan: Path) -> None:
    second = write_old(scan.with_name("train_2_a_1.nii.gz"), b"second")
    with pytest.raises(InputError, match="missing"):
        hash_all([second, scan.with_name("missing")], memory)

    assert FileHashCache(memory).known(scan)
    assert FileHashCache(memory).known(second)


def test_a_cache_of_all_of_ct_rate_is_read_and_written_quickly(memory: Path, scan: Path) -> None:
    hashed = hash_scan(scan)
    start = time.process_time()
    with FileHashCache(memory) as hashes:
        for number in range(50_000):
            hashes.note(Path(f"/data/dataset/train_fixed/train_{number}_a_1.nii.gz"), hashed)
    assert FileHashCache(memory).known(scan)
    assert time.process_time() - start < 10


def test_a_folder_is_known_by_the_content_of_its_files(tmp_path: Path) -> None:
    series, memory = tmp_path / "series", tmp_path / "hashes.json"
    for name in ("2", "1"):
        write_old(series / name, name.encode())
    os.utime(series, (time.time() - 3600,) * 2)
    hash_all([series], memory)
    found = FileHashCache(memory).known(series)
    assert found == hash_scan(series).sha256

    (series / "1").rename(series / "other name")
    assert FileHashCache(memory).known(series) is None
    assert hash_scan(series).sha256 == found

    turn_back(series)
    hash_all([series], memory)
    write_old(series / "2", b"3")
    assert FileHashCache(memory).known(series) is None
    assert hash_scan(series).sha256 != found


def test_a_series_over_subfolders_is_known_by_all_of_them(tmp_path: Path) -> None:
    series, memory = tmp_path / "series", tmp_path / "hashes.json"
    for name in ("a/1", "b/2"):
        (series / name).parent.mkdir(parents=True)
        write_old(series / name, name.encode())
    for folder in (series / "a", series / "b", series):
        turn_back(folder)
    hash_all([series], memory)
    found = hash_scan(series).sha256
    assert FileHashCache(memory).known(series) == found
    write_old(series / "b/2", b"other")
    assert FileHashCache(memory).known(series) is None
    assert hash_scan(series).sha256 != found


def test_a_link_to_a_parent_folder_changes_no_hash(tmp_path: Path) -> None:
    for name in ("a/1", "b/2"):
        write_old(tmp_path / name, name.encode())
    found = hash_scan(tmp_path)
    (tmp_path / "a/parent").symlink_to("..")
    assert hash_scan(tmp_path).sha256 == found.sha256


def test_one_file_of_a_series_stands_for_all_of_it(tmp_path: Path) -> None:
    series = write_series(tmp_path / "series", slices=4)
    found = hash_scan(series / "000.dcm").sha256
    assert found == hash_scan(series).sha256
    write_series(series, lambda dataset, _: put_pixels(dataset, stored(9)), slices=3)
    before = FileStat.of(series / "000.dcm")
    assert hash_scan(series / "000.dcm").sha256 != found
    (series / "003.dcm").write_bytes((series / "002.dcm").read_bytes())
    assert FileStat.of(series / "000.dcm") != before


@pytest.mark.parametrize(
    ("header", "voxels"), [("scan.mhd", "voxels.of any name"), ("scan.hdr", "scan.img")]
)
def test_a_header_is_known_by_its_voxels_too(tmp_path: Path, header: str, voxels: str) -> None:
    path, memory = tmp_path / header, tmp_path / "hashes.json"
    if path.suffix == ".mhd":
        write_metaimage(path, ElementDataFile=voxels)
    else:
        write_nifti(path)
    for file in (path, tmp_path / voxels):
        turn_back(file)
    hash_all([path], memory)
    found = FileHashCache(memory).known(path)
    assert found == hash_scan(path).sha256
    content = bytearray((tmp_path / voxels).read_bytes())
    content[-1] ^= 1
    write_old(tmp_path / voxels, content)
    assert FileHashCache(memory).known(path) is None
    assert hash_scan(path).sha256 != found


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.mha", "IM1"])
def test_a_fifo_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UnusableScan, match=rf"{name}: is (not a|no) (regular file|scan)"):
        hash_scan(tmp_path / name)
