"""Processing one volume: processed, unchanged, or an error with its fix."""

import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from multi_abnormality.config.schema import PreprocessSpec
from multi_abnormality.data.catalog.placeholders import (
    Placeholder,
    placeholder_path,
    write_placeholder,
)
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.io.series_metadata import Series
from multi_abnormality.data.storage import process_scan as process_module
from multi_abnormality.data.storage.file_hashes import hash_scan
from multi_abnormality.data.storage.process_scan import ProcessResult, process_volume
from multi_abnormality.data.storage.shards import Provenance, read_shard

NAME = "train_7_a_1"
RECIPE = PreprocessSpec(
    spacing=(7.0, 3.0, 3.0), shape=(8, 32, 32), hu_to_uint8=((-1024, 0), (1024, 255))
)
ROW = Series("1", "0", "[4.0, 4.0]", "5.0", "[1, 0, 0, 0, 1, 0]", "[0, 0, 0]")


@pytest.fixture
def scan(ct_rate) -> Path:
    return ct_rate.add(NAME, seed=1)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "processed"


def process(
    scan: Path, out: Path, stored: Provenance | None = None, series: Series | None = None
) -> ProcessResult:
    return process_volume(NAME, scan, series, stored, RECIPE, out)


def replace_by_receipt(scan: Path) -> Path:
    """A volume after `download --then-preprocess`."""
    receipt = Placeholder(hash_scan(scan).sha256, scan.stat().st_size, f"CT-RATE/{scan.name}")
    write_placeholder(receipt, placeholder_path(scan))
    scan.unlink()
    return placeholder_path(scan)


def test_a_volume_is_processed_once(scan: Path, out: Path):
    made = process(scan, out)
    part = out / f".parts/{NAME}.zip"
    assert made.fault is None
    assert read_shard(part)[0][NAME].origin == made.origin
    part.unlink()
    kept = process(scan, out, made.origin)
    assert (kept.origin, kept.fault) == (None, None)
    assert not part.exists()


def test_a_replaced_file_is_processed_again(ct_rate, scan: Path, out: Path):
    made = process(scan, out).origin
    ct_rate.add_file(NAME, seed=2)
    again = process(scan, out, made).origin
    assert again.voxels_sha256 != made.voxels_sha256


def test_a_receipt_replaces_a_processed_volume(scan: Path, out: Path):
    made = process(scan, out).origin
    kept = process(replace_by_receipt(scan), out, made)
    assert (kept.origin, kept.fault) == (None, None)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_receipt_without_stored_volume_names_the_download_command(
    ct_rate, out: Path, version: str
):
    scan = ct_rate.add_file(NAME, "_fixed" if version == "v2" else "", seed=1)
    receipt = replace_by_receipt(scan)
    command = (
        "`multi-abnormality download --split train --patients 7 "
        f"--version {version} --then-preprocess` brings it back"
    )
    fault = process(receipt, out).fault
    assert f"{receipt}: the volume was deleted after it was processed" in fault
    assert command in fault
    receipt.write_text("{")
    fault = process(receipt, out).fault
    assert f"{receipt}: is not a receipt" in fault
    assert command in fault


def test_a_new_row_of_the_table_counts_for_the_first_release_alone(scan: Path, out: Path):
    """The second release has its own header, so its volume does not change."""
    made = process(scan, out).origin
    receipt = replace_by_receipt(scan)
    assert process(receipt, out, made, ROW).fault is None
    fault = process(receipt, out, replace(made, source_release="v1"), ROW).fault
    assert f"{receipt}: the volume was deleted" in fault
    assert "Put the row back; or delete this file" in fault


def test_unusable_files_are_reported_and_write_nothing(scan: Path, out: Path):
    scan.write_bytes(scan.read_bytes()[:100])
    outcome = process(scan, out)
    assert outcome.origin is None
    assert outcome.reason == "damaged"
    assert f"{scan}: is truncated" in outcome.fault
    assert not out.exists()
    scan.unlink()
    outcome = process(scan, out)
    assert (outcome.reason, outcome.hashed) == (None, None)
    assert f"{scan}: cannot be read" in outcome.fault


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (RecursionError("too deep"), "unexpected error", r"unexpected RecursionError \(too deep\)"),
        (struct.error("bad"), "unexpected error", "please report this"),
        (MemoryError(), "out of memory", "needs more memory than there is"),
    ],
)
def test_any_exception_of_a_reader_is_a_fault_of_the_scan(
    scan: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
    words: str,
):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(process_module, "read_volume", fail)
    outcome = process(scan, out)
    assert outcome.reason == reason
    assert re.search(f"{re.escape(str(scan))}: .*{words}", outcome.fault)
    monkeypatch.setattr(process_module, "write_part", fail)
    monkeypatch.setattr(process_module, "read_volume", read_volume)
    with pytest.raises(type(error)):  # the disk is not the scan's
        process(scan, out)
