"""NRRD files are read as ITK reads them, or refused with the reason."""

import bz2
import gzip
import os
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from chest_files import (
    check_as_written,
    check_flipped_bits,
    chest,
    fault_of,
    nrrd_header,
    write_nrrd,
)
from multi_abnormality.data.io.nrrd import data_file
from multi_abnormality.data.io.reader_registry import FORMATS

(FORMAT,) = [one for one in FORMATS if one.name == "NRRD"]

DIRECTIONS = (
    sitk.Euler3DTransform((0, 0, 0), 0.1, 0.2, 0.3).GetMatrix(),
    (0, 0, 1, 1, 0, 0, 0, 1, 0),
)
RAW = chest().astype("<i2").tobytes()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("pixel", [sitk.sitkInt16, sitk.sitkFloat64])
def test_reads_what_itk_writes(
    tmp_path: Path, direction: tuple[float, ...], suffix: str, compressed: bool, pixel: int
) -> None:
    path = tmp_path / f"scan{suffix}"
    image = sitk.Cast(sitk.GetImageFromArray(chest()), pixel)
    image.SetSpacing((4.25, 4.5, 12.0))
    image.SetOrigin((-101.25, -98.5, -310.0))
    image.SetDirection(direction)
    sitk.WriteImage(image, str(path), useCompression=compressed)
    scan = FORMAT.read(path)
    columns = np.array(direction).reshape(3, 3) * image.GetSpacing()
    assert np.allclose(scan.affine[:3, :3], np.diag([-1, -1, 1]) @ columns, atol=1e-6)
    assert np.allclose(scan.affine[:3, 3], (101.25, 98.5, -310.0))
    assert np.array_equal(scan.hu.T, chest())


@pytest.mark.parametrize(
    "changes",
    [
        {"space": "LPS", "type": "short"},
        {
            "space": "right-anterior-superior",
            "space_directions": "(-4.25,0,0) (0,-4.25,0) (0,0,12)",
            "space_origin": "(101.25,98.5,-310)",
        },
        {
            "space": "Left-Anterior-Superior",
            "space_directions": "( 4.25 , 0 , 0 )  (0, -4.25, 0) (0,0,12)",
            "space_origin": "(-101.25, 98.5, -310)",
        },
        {
            "dimension": "4",
            "sizes": "1 48 48 24",
            "kinds": "list domain domain domain",
            "space_directions": "none (4.25,0,0) (0,4.25,0) (0,0,12)",
        },
        {
            "dimension": "4",
            "sizes": "48 48 24 1",
            "kinds": "domain domain domain time",
            "space_directions": "(4.25,0,0) (0,4.25,0) (0,0,12) none",
        },
        {"space_units": '"mm" "mm" "mm"', "measurement_frame": "(1,0,0) (0,1,0) (0,0,1)"},
        {"spacings": "nan 4.25 12", "kinds": "", "content": "a chest: 50 %", "byte_skip": "-1"},
    ],
)
def test_reads_every_way_to_write_a_header(tmp_path: Path, changes: dict[str, str]) -> None:
    check_as_written(write_nrrd(tmp_path / "scan.nrrd", **changes))


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("raw", bytes), ("gz", gzip.compress), ("bzip2", bz2.compress), ("bz2", bz2.compress)],
)
def test_reads_every_encoding_big_endian_and_skips(tmp_path: Path, encoding: str, pack) -> None:
    header = nrrd_header(encoding=encoding, endian="big", line_skip="2", byte_skip="3")
    content = b"one\ntwo\n" + pack(b"abc" + chest().astype(">i2").tobytes())
    path = tmp_path / "scan.nrrd"
    path.write_bytes(f"{header}# a comment\nkey:=any: value\n\n".encode() + content)
    check_as_written(path)
    path.write_bytes(f"{header}\n".replace("\n", "\r\n").encode() + content)
    check_as_written(path)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("bz2", bz2.compress)])
def test_reads_several_compressed_members(tmp_path: Path, encoding: str, pack) -> None:
    path = tmp_path / "scan.nrrd"
    members = pack(b"") * 2000 + pack(RAW[:1001]) + pack(b"") + pack(RAW[1001:])
    path.write_bytes(f"{nrrd_header(encoding=encoding)}\n".encode() + members)
    check_as_written(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": "block"}, "type 'block'"),
        ({"type": ""}, "has no type"),
        ({"dimension": "2"}, "contradicts itself: dimension is 2"),
        ({"dimension": "-1"}, "contradicts itself: dimension is -1"),
        ({"dimension": "9" * 30}, "as dimension, not whole numbers"),
        ({"sizes": "40000 40000 40000"}, "more than the limit"),
        ({"sizes": "512 512 1000"}, "is truncated: its header promises 524,288,000 bytes"),
        ({"sizes": "48 48 23"}, "holds more than the 105,984 bytes of voxels"),
        ({"kinds": "RGB-color domain domain"}, "kind 'RGB-color'"),
        (
            {"dimension": "4", "sizes": "2 48 48 12", "kinds": "list domain domain domain"},
            "kind 'list'",
        ),
        ({"endian": ""}, "has no endian"),
        ({"endian": "middle"}, "'middle' as endian"),
        ({"encoding": "ascii"}, "encoding 'ascii'"),
        ({"encoding": "hex"}, "encoding 'hex'"),
        ({"space": ""}, "has no space, so left and right are unknown"),
        ({"space": "", "space_dimension": "3"}, "has no space, so left and right are unknown"),
        ({"space": "scanner-xyz"}, "space 'scanner-xyz'"),
        ({"space": "left-posterior-superior-time"}, "space 'left-posterior-superior-time'"),
        ({"space_directions": "", "spacings": "4.25 4.25 12"}, "has no space directions"),
        ({"space_directions": "(1,0,0) none (0,0,1)"}, "an axis without direction"),
        ({"space_directions": "(1,0,0) (0,1,0)"}, "where 3 vectors should be"),
        ({"space_directions": "((((((((((((((((((("}, "where 3 vectors should be"),
        ({"space_directions": "(nan,0,0) (0,1,0) (0,0,1)"}, "where 3 numbers should be"),
        ({"space_directions": "(0,0,0) (0,1,0) (0,0,1)"}, "zero vector"),
        ({"space_directions": "(1,0,0) (0,1,0) (0,0,1)"}, "1 mm along each axis"),
        (
            {"space_directions": "(1,0,0) (0,1,0) (0,0,1)", "space_origin": ""},
            "1 mm along each axis",
        ),
        ({"spacings": "1 1 1"}, "contradicts itself: spacings"),
        ({"space_units": '"cm" "cm" "cm"'}, "space units 'cm'"),
        ({"line_skip": "999999999999"}, "more lines than there are"),
        ({"byte_skip": "999999999999"}, "has byte skip 999999999999"),
        ({"byte_skip": "-7"}, "has byte skip -7"),
        ({"data_file": "LIST"}, "voxels in several files"),
        ({"datafile": "slice%03d.raw 1 24 1"}, "voxels in several files"),
        ({"data_file": "../scan.raw"}, "file in another folder"),
        ({"data_file": "gone.raw"}, "'gone.raw', which is not beside it"),
        ({"data_file": "fifo"}, "'fifo', which is not a regular file"),
        ({"data_file": "scan.nrrd"}, "names itself"),
    ],
)
def test_refuses_a_header_for_its_reason(
    tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    path = write_nrrd(tmp_path / "scan.nrrd", **changes)
    assert re.search(reason, fault_of(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is not an NRRD file"),
        (bytes(range(256)) * 100, "is not an NRRD file"),
        (b"NRRD0009\n", "is not an NRRD file"),
        (b"NRRD0004\nno field\n", "line 2 of its header"),
        (b"NRRD0004\ntype: short\ntype: int\n", "'type' is 'short' and 'int'"),
        (b"NRRD0004\n", "has no dimension"),
    ],
)
def test_refuses_incomplete_files(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "scan.nrrd").write_bytes(content)
    assert reason in fault_of(tmp_path / "scan.nrrd")


def test_notices_every_flipped_bit_in_compressed_voxels(tmp_path: Path) -> None:
    path = write_nrrd(tmp_path / "scan.nhdr", "gzip")
    check_flipped_bits(path, tmp_path / "scan.raw.gz", [0, 3, -8])


def test_names_the_file_with_the_voxels(tmp_path: Path) -> None:
    assert data_file(write_nrrd(tmp_path / "scan.nrrd")) is None
    path = write_nrrd(tmp_path / "scan.nhdr")
    assert data_file(path) == tmp_path / "scan.raw"
    check_as_written(path)
