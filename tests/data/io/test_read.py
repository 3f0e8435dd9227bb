"""Reading volumes in HU from any file, and the errors for invalid files."""

import gzip
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.io.reader_registry import scan_name
from multi_abnormality.utils.errors import InputError

REAL_CT = Path(__file__).resolve().parents[4] / "shared/real-ct"
needs_real_ct = pytest.mark.skipif(not REAL_CT.is_dir(), reason="no real scans beside the project")
RAS_AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])


def phantom(shape: tuple[int, int, int] = (12, 10, 8)) -> np.ndarray:
    """(X, Y, Z) int16 HU: air with noise, and soft tissue of its own value in every voxel."""
    hu = np.random.default_rng(0).normal(-980, 8, shape).astype(np.int16)
    hu[2:-2, 2:-2, 2:-2] = np.arange(hu[2:-2, 2:-2, 2:-2].size).reshape(hu[2:-2, 2:-2, 2:-2].shape)
    return hu


def save(path: Path, data: np.ndarray, affine: np.ndarray = RAS_AFFINE, **fields: object) -> Path:
    """Write a NIfTI file, then set header fields that nibabel would not write."""
    image = nib.Nifti1Image(data, affine)
    image.to_filename(path)
    if fields:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        header = nib.Nifti1Header(raw[:348], check=False)
        for name, value in fields.items():
            header[name] = value
        raw = header.binaryblock + raw[348:]
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def expected(hu: np.ndarray) -> np.ndarray:
    """A RAS (X, Y, Z) array as (Z, Y, X) that rises to head, back and left."""
    return hu.transpose(2, 1, 0)[:, ::-1, ::-1]


def fault_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert str(path) in message
    return message


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_reads_nifti_in_canonical_orientation(tmp_path: Path, suffix: str) -> None:
    volume = read_volume(save(tmp_path / f"scan{suffix}", phantom()))

    np.testing.assert_array_equal(volume.hu, expected(phantom()))
    assert volume.hu.dtype == np.int16
    assert volume.spacing == (4.0, 3.0, 2.0)
    assert volume.original_shape == (12, 10, 8)
    assert volume.original_spacing == (2.0, 3.0, 4.0)
    assert volume.original_axes == "RAS"


@pytest.mark.parametrize("axes", ["LPS", "RAI", "PIR", "SAL", "IRP", "ASR"])
def test_any_orientation_gives_the_same_volume(tmp_path: Path, axes: str) -> None:
    image = nib.Nifti1Image(phantom(), RAS_AFFINE)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(RAS_AFFINE), nib.orientations.axcodes2ornt(axes)
    )
    path = tmp_path / "scan.nii.gz"
    image.as_reoriented(turn).to_filename(path)

    volume = read_volume(path)

    np.testing.assert_array_equal(volume.hu, expected(phantom()))
    assert volume.spacing == (4.0, 3.0, 2.0)
    assert volume.original_axes == axes


def test_oblique_scan_takes_its_nearest_axes(tmp_path: Path) -> None:
    angle = np.deg2rad(20)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]

    volume = read_volume(save(tmp_path / "scan.nii.gz", phantom(), rotation @ RAS_AFFINE))

    np.testing.assert_array_equal(volume.hu, expected(phantom()))
    assert volume.spacing == pytest.approx((4.0, 3.0, 2.0), abs=1e-5)


@pytest.mark.parametrize(
    "dtype", ["int16", ">i2", "int32", "uint16", "uint32", "float32", "float64", "int8"]
)
def test_any_number_type_with_a_rescale(tmp_path: Path, dtype: str) -> None:
    hu = phantom()
    slope, intercept = (8.0, -512.0) if dtype == "int8" else (1.0, -1024.0)
    stored = ((hu - intercept) / slope).astype(dtype)
    path = save(tmp_path / "scan.nii.gz", stored, scl_slope=slope, scl_inter=intercept)

    volume = read_volume(path)

    np.testing.assert_array_equal(volume.hu, expected(stored.astype(int) * slope + intercept))
    assert volume.hu.dtype == (np.float32 if "float" in dtype else np.int16)


def test_fractional_rescale_stays_fractional(tmp_path: Path) -> None:
    stored = phantom() * 2 + 1
    path = save(tmp_path / "scan.nii", stored, scl_slope=0.5, scl_inter=0.25)

    np.testing.assert_allclose(read_volume(path).hu, expected(stored * 0.5 + 0.25), atol=1e-4)


def test_padding_below_air_is_clipped(tmp_path: Path) -> None:
    hu = phantom()
    hu[0] = -8192

    volume = read_volume(save(tmp_path / "scan.nii.gz", hu))

    assert volume.hu.min() == -1024
    np.testing.assert_array_equal(volume.hu, expected(hu.clip(-1024)))


def test_trailing_axis_of_length_one_is_fine(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "scan.nii.gz", phantom()[..., None]))

    assert volume.hu.shape == (8, 10, 12)


def test_nifti2_and_zero_qfac(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    nib.Nifti2Image(phantom(), RAS_AFFINE).to_filename(path)
    np.testing.assert_array_equal(read_volume(path).hu, expected(phantom()))

    image = nib.Nifti1Image(phantom(), RAS_AFFINE)
    image.set_qform(RAS_AFFINE, 1)
    image.set_sform(None, 0)
    image.to_filename(path)
    pixdim = np.array([0, 2, 3, 4, 0, 0, 0, 0], np.float32)
    raw = path.read_bytes()
    path.write_bytes(raw[:76] + pixdim.tobytes() + raw[108:])
    np.testing.assert_array_equal(read_volume(path).hu, expected(phantom()))


def test_a_nifti2_file_cut_in_its_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    nib.Nifti2Image(phantom(), RAS_AFFINE).to_filename(path)
    path.write_bytes(path.read_bytes()[:400])
    assert "truncated" in fault_of(path)


def bad_data(kind: str) -> tuple[np.ndarray, np.ndarray]:
    data, affine = phantom(), RAS_AFFINE
    if kind == "2d":
        data = data[:, :, 4]
    elif kind == "one slice":
        data = data[:, :, 4:5]
    elif kind == "4d":
        data = np.stack([data, data], axis=-1)
    elif kind in ("nan", "inf"):
        data = data.astype(np.float32)
        data[5, 5, 5] = float(kind)
    elif kind == "complex":
        data = data.astype(np.complex64)
    elif kind == "rgb":
        data = np.zeros(data.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    elif kind == "raw":
        data = data + np.int16(1024)
    elif kind == "padded raw":
        data = data + np.int16(1024)
        data[0] = -2000
    elif kind == "twice":
        data = data - np.int16(1024)
    elif kind == "tiny spacing":
        affine = np.diag([0.001, 3, 4, 1])
    elif kind == "huge spacing":
        affine = np.diag([2, 3, 400, 1])
    elif kind == "singular":
        affine = np.array([[2, 2, 0, 0], [0, 0, 0, 0], [0, 0, 4, 0], [0, 0, 0, 1]])
        affine[1, 1] = 0
    elif kind == "small":
        affine = np.diag([2, 3, 0.5, 1])
    return data, affine


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("2d", "not that of one 3D scan"),
        ("one slice", "not that of one 3D scan"),
        ("4d", "not that of one 3D scan"),
        ("nan", "NaN or infinite voxels"),
        ("inf", "NaN or infinite voxels"),
        ("complex", "complex64 voxels"),
        ("rgb", "RGB voxels"),
        ("raw", "without their rescale"),
        ("padded raw", "without their rescale"),
        ("twice", "Rescaled twice"),
        ("tiny spacing", "outside 0.05 to 50"),
        ("huge spacing", "outside 0.05 to 50"),
        ("singular", "singular"),
        ("small", "give the whole scan"),
    ],
)
def test_other_images_than_ct_are_refused(tmp_path: Path, kind: str, words: str) -> None:
    data, affine = bad_data(kind)
    assert words in fault_of(save(tmp_path / "scan.nii.gz", data, affine))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pixdim": [1, 2, 3, np.nan, 0, 0, 0, 0]}, "gives the spacing"),
        ({"pixdim": [1, 2, 3, 0, 0, 0, 0, 0]}, "gives the spacing"),
        ({"srow_z": [0, 0, np.nan, 0]}, "holds NaN"),
        ({"sform_code": 0, "qform_code": 0}, "left and right are unknown"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 2}, "no valid affine"),
        ({"datatype": 999}, "unknown data type"),
        ({"datatype": 0}, "not plain numbers"),
        ({"scl_slope": -1, "scl_inter": 0}, "rescale"),
        ({"scl_slope": 1, "scl_inter": np.nan}, "rescale"),
        ({"dim": [3, 12, 10, 30000, 1, 1, 1, 1]}, "truncated"),
        ({"dim": [3, 12, 10, 9, 1, 1, 1, 1]}, "truncated"),
        ({"dim": [3, 12, -10, 8, 1, 1, 1, 1]}, "not that of one 3D scan"),
        ({"vox_offset": np.nan}, "start of the voxels"),
        ({"magic": b"ni1"}, "another file"),
        ({"sizeof_hdr": 7}, "is not a NIfTI file"),
    ],
)
def test_wrong_headers_are_refused(tmp_path: Path, fields: dict, words: str) -> None:
    assert words in fault_of(save(tmp_path / "scan.nii.gz", phantom(), **fields))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.nii.gz", phantom()).read_bytes()
    path = tmp_path / "scan.nii.gz"
    for size in (20, len(whole) // 2, len(whole) - 4):  # in the header, the voxels, the checksum
        path.write_bytes(whole[:size])
        assert "truncated" in fault_of(path)

    flipped = bytearray(whole)
    flipped[-6] ^= 0xFF  # in the checksum
    path.write_bytes(flipped)
    assert "damaged" in fault_of(path)

    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes(flipped)
    assert "fetch it again" in fault_of(path)


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    text, empty = tmp_path / "text.nii.gz", tmp_path / "empty.nii.gz"
    text.write_text("version https://git-lfs.github.com/spec/v1\n")
    empty.touch()
    other = tmp_path / "scan.jpg"
    other.write_bytes(b"picture")
    zipped = save(tmp_path / "scan.nii.gz", phantom()).rename(tmp_path / "scan.nii")

    assert "is not gzip-compressed" in fault_of(text)
    assert "is gzip-compressed" in fault_of(zipped)
    assert "is empty" in fault_of(empty)
    assert ".nii.gz, .nii, .hdr, .mha, .mhd, .nrrd, .nhdr" in fault_of(other)
    assert "No such file" in fault_of(tmp_path / "missing.nii.gz")
    (tmp_path / "short.nii").write_bytes(b"abc")
    assert "truncated" in fault_of(tmp_path / "short.nii")


def test_a_scan_is_named_after_its_file_or_folder() -> None:
    names = ["a/valid_1_a_1.nii.gz", "b/x.MHA", "c/scan.1.nii"]
    assert [scan_name(Path(name)) for name in names] == ["valid_1_a_1", "x", "scan.1"]
    assert scan_name(Path(__file__).parent / ".") == "io"


def test_importing_needs_nothing_heavy() -> None:
    code = "import sys, multi_abnormality.data.io.read; print(*sys.modules, sep='\\n')"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert not {"torch", "pydicom", "gdcm", "scipy", "pandas"} & set(modules.split())


@needs_real_ct
def test_real_orientations_are_one_volume() -> None:
    paths = sorted(REAL_CT.glob("chest_CIP_ct64_*.nii.gz"))
    volumes = [read_volume(path) for path in paths]

    assert [volume.original_axes for volume in volumes] == ["LAS", "LPS", "PIR", "RAI", "RAS"]
    for volume in volumes:
        np.testing.assert_array_equal(volume.hu, volumes[0].hu)
        assert volume.spacing == volumes[0].spacing
    # The spine lies at the back, where y is high.
    bone = np.argwhere(volumes[0].hu > 300).mean(axis=0) / volumes[0].hu.shape
    assert bone[1] > 0.5


@needs_real_ct
def test_real_rescaled_scan_has_its_air_at_minus_1000() -> None:
    volume = read_volume(REAL_CT / "chest_LungDx-A0001_5mm_dcm2niix.nii.gz")

    outside = volume.hu[:, :40, 200:300]  # in front of the chest
    assert np.median(outside) == pytest.approx(-1000, abs=15)


@needs_real_ct
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("chest_LIDC-IDRI-0001_2.5mm_int16.nii.gz", (133, 512, 512)),
        ("chest_pyradiomics_lung1_5mm_int16.nii.gz", (48, 512, 512)),
        ("abdpelvis_TotalSegmentator_example_ct_3mm_int32.nii.gz", (112, 101, 122)),
        ("halfthorax_elastix_baseline_small_int16.mha", (64, 78, 57)),
        ("dicom_abdomen_TotalSegmentator_J2K", (20, 512, 512)),
    ],
)
def test_real_scans_read(name: str, shape: tuple[int, int, int]) -> None:
    volume = read_volume(REAL_CT / name)

    assert volume.hu.shape == shape
    assert volume.hu.dtype == np.int16
    assert volume.hu.min() >= -1024
