"""MetaImage files are read as ITK reads them, or refused with the reason."""

import gzip
import os
import random
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from chest_files import (
    check_as_written,
    check_flipped_bits,
    chest,
    fault_of,
    is_same_or_refused,
    metaimage_header,
    write_metaimage,
)
from multi_abnormality.data.io.metaimage import data_file
from multi_abnormality.data.io.reader_registry import FORMATS
from multi_abnormality.data.io.scan import Scan
from multi_abnormality.utils.errors import UnusableScan

(FORMAT,) = [one for one in FORMATS if one.name == "MetaImage"]

REAL_CT = Path(__file__).resolve().parents[4] / "shared/real-ct"
REAL = REAL_CT / "halfthorax_elastix_baseline_small_int16.mha"
OBLIQUE = sitk.Euler3DTransform((0, 0, 0), 0.1, 0.2, 0.3).GetMatrix()
PERMUTED = (0, 0, 1, 1, 0, 0, 0, 1, 0)
RAW = chest().astype("<i2").tobytes()


def image(direction: tuple[float, ...] = PERMUTED, pixel: int = sitk.sitkInt16) -> sitk.Image:
    result = sitk.Cast(sitk.GetImageFromArray(chest()), pixel)
    result.SetSpacing((4.25, 4.5, 12.0))
    result.SetOrigin((-101.25, -98.5, -310.0))
    result.SetDirection(direction)
    return result


def check_as_itk(scan: Scan, path: Path) -> None:
    read = sitk.ReadImage(str(path))
    lps = np.eye(4)
    lps[:3, :3] = np.array(read.GetDirection()).reshape(3, 3) * read.GetSpacing()
    lps[:3, 3] = read.GetOrigin()
    assert np.allclose(scan.affine, np.diag([-1, -1, 1, 1]) @ lps, atol=1e-4)
    hu = sitk.GetArrayFromImage(read).clip(-1024, None)
    assert np.array_equal(scan.hu.transpose(2, 1, 0), hu)


@pytest.mark.parametrize("direction", [OBLIQUE, PERMUTED])
@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
@pytest.mark.parametrize("compressed", [False, True])
def test_reads_what_itk_writes(
    tmp_path: Path, direction: tuple[float, ...], suffix: str, compressed: bool
) -> None:
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(image(direction), str(path), useCompression=compressed)
    check_as_itk(FORMAT.read(path), path)


@pytest.mark.parametrize(
    "pixel", [sitk.sitkInt32, sitk.sitkInt64, sitk.sitkFloat32, sitk.sitkFloat64]
)
def test_reads_every_type(tmp_path: Path, pixel: int) -> None:
    path = tmp_path / "scan.mha"
    sitk.WriteImage(image(pixel=pixel), str(path), useCompression=True)
    check_as_itk(FORMAT.read(path), path)


@pytest.mark.skipif(not REAL.exists(), reason="no real scans beside the project")
def test_reads_a_real_scan_as_itk_does() -> None:
    check_as_itk(FORMAT.read(REAL), REAL)


@pytest.mark.parametrize("key", ["BinaryDataByteOrderMSB", "ElementByteOrderMSB"])
def test_reads_big_endian_voxels(tmp_path: Path, key: str) -> None:
    path = tmp_path / "scan.mha"
    header = metaimage_header(**{"BinaryDataByteOrderMSB": "", key: "True"})
    path.write_bytes(header.encode() + chest().astype(">i2").tobytes())
    check_as_written(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"ElementSpacing": "", "ElementSize": "4.25 4.25 12"},
        {"ElementSize": "4.25 4.25 10"},  # thickness of a slice
        {"Offset": "", "Position": "-101.25 -98.5 -310"},
        {"TransformMatrix": "", "Orientation": "1 0 0 0 1 0 0 0 1"},
        {"BinaryData": "", "CompressedData": "", "ObjectType": "", "AnatomicalOrientation": ""},
        {"AnatomicalOrientation": "???", "Comment": "µ = 1; 50 %", "0008|0005": "ISO_IR 100"},
        {"HeaderSize": "-1"},
        {"HeaderSize": "0", "ElementNumberOfChannels": "1", "ElementMin": "-5"},
        {"ElementToIntensityFunctionSlope": "1", "ElementToIntensityFunctionOffset": "0"},
        {
            "NDims": "4",
            "DimSize": "48 48 24 1",
            "ElementSpacing": "4.25 4.25 12 1",
            "Offset": "-101.25 -98.5 -310 0",
            "TransformMatrix": "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1",
        },
    ],
)
def test_reads_every_way_to_write_a_header(tmp_path: Path, changes: dict[str, str]) -> None:
    check_as_written(write_metaimage(tmp_path / "scan.mha", **changes))


def test_reads_line_ends_of_windows_and_padding_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "scan.mha"
    path.write_bytes(metaimage_header().replace("\n", "\r\n").encode() + RAW + b"\0" * 100)
    check_as_written(path)


def test_reads_a_header_of_another_format_before_the_voxels(tmp_path: Path) -> None:
    path = write_metaimage(tmp_path / "scan.mhd", HeaderSize="300")
    (tmp_path / "scan.raw").write_bytes(b"x" * 300 + RAW)
    check_as_written(path)


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress])
@pytest.mark.parametrize("size", ["", "0", "{}"])
def test_reads_both_wrappers_of_a_compressed_stream(tmp_path: Path, pack, size: str) -> None:
    path, voxels = tmp_path / "scan.mha", pack(RAW)
    header = metaimage_header(CompressedData="True", CompressedDataSize=size.format(len(voxels)))
    path.write_bytes(header.encode() + voxels + b"appended")
    check_as_written(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ObjectType": "Mesh"}, "type 'Mesh'"),
        ({"NDims": "-1"}, "has -1 as NDims"),
        ({"NDims": "2147483647"}, "has 2147483647 as NDims"),
        ({"NDims": "2"}, "has 2 as NDims"),
        ({"NDims": "%n"}, "'%n' as NDims"),
        ({"NDims": ""}, "has no NDims"),
        ({"DimSize": "48 48 24 1"}, "contradicts itself: NDims is 3"),
        ({"DimSize": "48 48 -24"}, r"shape \(48, 48, -24\)"),
        ({"DimSize": "60000 60000 60000"}, "more than the limit"),
        ({"DimSize": "48 48 " + "9" * 5000}, "not whole numbers"),
        ({"DimSize": "512 512 1000"}, "is truncated: its header promises 524,288,000 bytes"),
        ({"DimSize": "48 48 23"}, "holds more than the 105,984 bytes of voxels"),
        ({"ElementType": "MET_COMPLEX"}, "type 'MET_COMPLEX'"),
        ({"ElementType": "MET_USHORT_ARRAY"}, "type 'MET_USHORT_ARRAY'"),
        ({"ElementNumberOfChannels": "3"}, "has 3 channels"),
        ({"BinaryData": "False"}, "as text"),
        ({"BinaryData": "maybe"}, "'maybe' as BinaryData"),
        ({"ElementByteOrderMSB": "True"}, "contradicts itself: BinaryDataByteOrderMSB and"),
        ({"ElementSpacing": ""}, "has no ElementSpacing"),
        ({"ElementSpacing": "", "XElementSpacing": "4 4 12"}, "has no ElementSpacing"),
        ({"ElementSpacing": "0 0 12"}, "'0 0 12' as ElementSpacing"),
        ({"ElementSpacing": "-4 4 12"}, "'-4 4 12' as ElementSpacing"),
        ({"ElementSpacing": "nan 4 12"}, "'nan 4 12' as ElementSpacing"),
        ({"ElementSpacing": "4,25 4,25 12"}, "where 3 numbers should be"),
        ({"ElementSpacing": "1 1 1", "Offset": "0 0 0"}, "1 mm along each axis"),
        ({"ElementSpacing": "1 1 1", "Offset": ""}, "1 mm along each axis"),
        ({"ElementSpacing": "1 1 1"}, "1 mm along each axis"),
        ({"TransformMatrix": ""}, "has no TransformMatrix, so left and right are unknown"),
        ({"TransformMatrix": "2 0 0 0 1 0 0 0 1"}, r"lengths \[2.0, 1.0, 1.0\]"),
        ({"TransformMatrix": "0 0 0 0 0 0 0 0 0"}, r"lengths \[0.0, 0.0, 0.0\]"),
        ({"Rotation": "-1 0 0 0 -1 0 0 0 1"}, "TransformMatrix and Rotation differ"),
        ({"Origin": "0 0 0"}, "Offset and Origin differ"),
        ({"Offset": "1 2 1e999"}, "beyond all limits"),
        ({"ElementToIntensityFunctionOffset": "-1024"}, "IntensityFunctionOffset = '-1024'"),
        ({"DistanceUnits": "cm"}, "DistanceUnits = 'cm'"),
        ({"HeaderSize": "-2"}, "-2 as HeaderSize"),
        ({"HeaderSize": "10"}, "10 as HeaderSize"),
        ({"CompressedData": "True"}, "is damaged"),
        ({"ElementDataFile": ""}, "is not a MetaImage file, or damaged: line 13"),
        ({"ElementDataFile": "LIST 2"}, "voxels in several files"),
        ({"ElementDataFile": "slice%03d.raw 1 24 1"}, "voxels in several files"),
        ({"ElementDataFile": "%s%n%s%n"}, "voxels in several files"),
        ({"ElementDataFile": "/etc/passwd"}, "file in another folder"),
        ({"ElementDataFile": "../scan.raw"}, "file in another folder"),
        ({"ElementDataFile": "http://host/scan.raw"}, "file in another folder"),
        ({"ElementDataFile": "gone.raw"}, "'gone.raw', which is not beside it"),
        ({"ElementDataFile": "loop"}, "'loop', which is not beside it"),
        ({"ElementDataFile": "fifo"}, "'fifo', which is not a regular file"),
        ({"ElementDataFile": "."}, "file in another folder"),
        ({"ElementDataFile": "folder"}, "'folder', which is not a regular file"),
        ({"ElementDataFile": "scan.mha"}, "names itself"),
    ],
)
def test_refuses_a_header_for_its_reason(
    tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    path = write_metaimage(tmp_path / "scan.mha", **changes)
    assert re.search(reason, fault_of(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is not a MetaImage file"),
        (bytes(range(256)) * 100, "is not a MetaImage file"),
        (b"a" * 1_000_000, "is not a MetaImage file"),
        (b"NDims = 3\nNDims = 4\n", "'NDims' is '3' and '4'"),
        (b"NDims = 3\n", "ends without ElementDataFile"),
        (b"Name = \xff\xfe\x1b[31m\n" + metaimage_header().encode() + b"x", "is truncated"),
    ],
)
def test_refuses_incomplete_files(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "scan.mha").write_bytes(content)
    assert reason in fault_of(tmp_path / "scan.mha")


@pytest.mark.parametrize("inserted", [b"x", b"\r\n"])
def test_refuses_voxels_that_may_be_shifted(tmp_path: Path, inserted: bytes) -> None:
    path = tmp_path / "scan.mha"
    path.write_bytes(metaimage_header().encode() + inserted + RAW)
    assert "where they begin is unknown" in fault_of(path)


def test_refuses_a_compressed_size_that_does_not_fit(tmp_path: Path) -> None:
    path, voxels = tmp_path / "scan.mha", zlib.compress(RAW)
    for size, reason in ((len(voxels) + 1, "is truncated"), (len(voxels) - 1, "is truncated")):
        header = metaimage_header(CompressedData="True", CompressedDataSize=str(size))
        path.write_bytes(header.encode() + voxels)
        assert reason in fault_of(path)


def test_notices_every_flipped_bit_in_compressed_voxels(tmp_path: Path) -> None:
    path = write_metaimage(tmp_path / "scan.mhd", compressed=True)
    check_flipped_bits(path, tmp_path / "scan.zraw", [0, 1, -4, -1])


def test_survives_damaged_headers(tmp_path: Path) -> None:
    path, rng = tmp_path / "scan.mha", random.Random(0)
    header = metaimage_header().encode()
    for _ in range(200):
        damaged = bytearray(header)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(damaged) + RAW)
        assert is_same_or_refused(path, f"{path}: ")


def test_names_the_file_with_the_voxels(tmp_path: Path) -> None:
    assert data_file(write_metaimage(tmp_path / "scan.mha")) is None
    name = "voxels of any name"
    path = write_metaimage(tmp_path / "scan.mhd", ElementDataFile=name)
    assert data_file(path) == tmp_path / name
    check_as_written(path)
    (tmp_path / name).unlink()
    with pytest.raises(UnusableScan, match="which is not beside it"):
        data_file(path)
