"""NIfTI headers as programs write them: rounding is accepted, contradictions are refused."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from chest_files import affine, chest, write_nifti
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.utils.errors import InputError, UnusableScan

# Offsets of fields in a NIfTI-1 header.
PIXDIM, QFORM_CODE, QUATERNION, SROW_X = 76, 252, 256, 280
SHEAR = np.eye(4)
SHEAR[1, 2] = np.tan(np.radians(15))  # y shifts with each slice


def save(path: Path, image: nib.Nifti1Image) -> Path:
    image.to_filename(path)
    return path


def changed(path: Path, offset: int, form: str, *values: object) -> Path:
    """Overwrite a field of an uncompressed file's header."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, offset, *values)
    path.write_bytes(content)
    return path


def image(
    sform: np.ndarray | None = None, qform: np.ndarray | None = None, units: str = "mm"
) -> nib.Nifti1Image:
    made = nib.Nifti1Image(chest().T, affine())
    made.set_sform(sform, 0 if sform is None else 1)
    made.set_qform(qform, 0 if qform is None else 1)
    made.header.set_xyzt_units(units)
    return made


def scaled(factor: float, axis: int | slice = slice(None)) -> np.ndarray:
    """The true affine with another spacing along one axis, or along all."""
    other = affine()
    other[:3, axis] *= factor
    return other


def mirrored() -> np.ndarray:
    return affine() @ np.diag([-1.0, 1, 1, 1])


@pytest.mark.parametrize(
    ("sform", "qform"),
    [
        (affine(), None),
        (None, affine()),
        (affine(), affine()),
        (scaled(1.004), affine()),  # rounded to two decimals
    ],
)
def test_consistent_header_fields_are_accepted(
    tmp_path: Path, sform: np.ndarray | None, qform: np.ndarray | None
) -> None:
    made = image(sform, qform)
    made.header["pixdim"][1:4] = np.linalg.norm(affine()[:3, :3], axis=0)
    volume = read_volume(save(tmp_path / "scan.nii.gz", made))
    np.testing.assert_array_equal(volume.hu, chest())
    assert volume.spacing == pytest.approx((12.0, 4.25, 4.25), rel=0.005)
    assert volume.original_axes == "LPS"


@pytest.mark.parametrize(
    ("sform", "qform", "words"),
    [
        (mirrored(), affine(), "by sform its axes point to RPS, by qform to LPS"),
        (affine(), mirrored(), "by sform its axes point to LPS, by qform to RPS"),
        (affine()[:, [1, 0, 2, 3]], affine(), "by sform its axes point to PLS"),
        (scaled(0.5, 2), affine(), "sform gives a spacing of"),
        (affine(), scaled(2), "sform gives a spacing of"),
    ],
)
def test_contradicting_header_fields_are_refused(
    tmp_path: Path, sform: np.ndarray, qform: np.ndarray, words: str
) -> None:
    with pytest.raises(UnusableScan, match=f"contradicts itself: {words}") as caught:
        read_volume(save(tmp_path / "scan.nii.gz", image(sform, qform)))
    assert caught.value.reason == "geometry"


def test_a_spacing_left_from_before_resampling_is_refused(tmp_path: Path) -> None:
    path = changed(save(tmp_path / "scan.nii", image(affine())), PIXDIM + 4, "<fff", 1, 1, 1)
    with pytest.raises(UnusableScan, match=r"pixdim \[1\.0, 1\.0, 1\.0\]"):
        read_volume(path)


@pytest.mark.parametrize(("units", "factor"), [("meter", 1e-3), ("micron", 1e3), ("unknown", 1)])
def test_units_are_those_that_the_header_gives(tmp_path: Path, units: str, factor: float) -> None:
    in_units = affine()
    in_units[:3] *= factor
    made = image(in_units, in_units, units)
    assert read_volume(save(tmp_path / "scan.nii", made)).spacing == pytest.approx((12, 4.25, 4.25))


def test_a_unit_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", image(affine(), affine(), "meter"))
    with pytest.raises(UnusableScan, match=r"spacing is .*4250.*outside 0\.05 to 50"):
        read_volume(path)


@pytest.mark.parametrize("excess", [5e-7, 1e-4])
def test_a_quaternion_just_over_one_is_rounding(tmp_path: Path, excess: float) -> None:
    path = save(tmp_path / "scan.nii", image(qform=affine()))
    before = read_volume(path)
    volume = read_volume(changed(path, QUATERNION, "<fff", 0, 0, 1 + excess))
    np.testing.assert_array_equal(volume.hu, before.hu)
    assert volume.spacing == before.spacing


@pytest.mark.parametrize("quaternion", [(0, 0, 1.1), (float("nan"), 0, 1)])
def test_a_quaternion_far_from_one_is_refused(tmp_path: Path, quaternion: tuple) -> None:
    path = save(tmp_path / "scan.nii", image(qform=affine()))
    with pytest.raises(UnusableScan, match="square of its quaternion"):
        read_volume(changed(path, QUATERNION, "<fff", *quaternion))


def test_nifti2_from_a_nifti1_header_is_read(tmp_path: Path) -> None:
    """Its doubles hold what float32 had rounded."""
    made = nib.Nifti2Image(chest().T, affine())
    made.set_sform(None, 0)
    made.set_qform(affine(), 1)
    path = save(tmp_path / "scan.nii", made)
    changed(path, 352, "<ddd", 0, 0, float(np.float32(1.0000005)))
    np.testing.assert_array_equal(read_volume(path).hu, chest())


def zero_fourth_axis(path: Path) -> None:
    changed(path, 40, "<hhhhh", 4, *chest().T.shape, 0)


def zero_offset(path: Path) -> None:
    changed(path, 108, "<f", 0)


def bytes_at_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 512)


@pytest.mark.parametrize("edit", [zero_fourth_axis, zero_offset, bytes_at_the_end])
def test_harmless_differences_change_nothing(tmp_path: Path, edit: Callable[[Path], None]) -> None:
    path = write_nifti(tmp_path / "scan.nii")
    edit(path)
    np.testing.assert_array_equal(read_volume(path).hu, chest())


def test_bytes_after_the_gzip_stream_are_ignored(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz")
    path.write_bytes(path.read_bytes() + b"\0trailing")
    np.testing.assert_array_equal(read_volume(path).hu, chest())


def test_more_voxels_than_promised_are_refused(tmp_path: Path) -> None:
    path = changed(write_nifti(tmp_path / "scan.nii"), 46, "<h", 12)  # of 24 slices
    with pytest.raises(UnusableScan, match="holds more than the 55,296 bytes of voxels"):
        read_volume(path)
    zipped = tmp_path / "scan.nii.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UnusableScan, match="more voxels than its header promises"):
        read_volume(zipped)


@pytest.mark.parametrize("suffixes", [(".hdr", ".img"), (".HDR", ".IMG")])
def test_a_pair_is_read_by_either_name(tmp_path: Path, suffixes: tuple[str, str]) -> None:
    write_nifti(tmp_path / "scan.hdr")
    for old, new in zip((".hdr", ".img"), suffixes, strict=True):
        (tmp_path / f"scan{old}").rename(tmp_path / f"scan{new}")
    for suffix in suffixes:
        np.testing.assert_array_equal(read_volume(tmp_path / f"scan{suffix}").hu, chest())


def test_bad_pairs_are_refused(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.hdr")
    image_path = tmp_path / "scan.img"
    image_path.write_bytes(image_path.read_bytes()[:-10_000])
    with pytest.raises(UnusableScan, match=r"scan\.img: is truncated"):
        read_volume(path)
    changed(path, 344, "<4s", b"\0\0\0\0")
    with pytest.raises(UnusableScan, match=r"ANALYZE 7\.5"):
        read_volume(path)


def test_a_default_of_one_mm_is_refused(tmp_path: Path) -> None:
    for origin in (0.0, -120.0):
        default = np.diag([-1.0, -1.0, 1.0, 1.0])
        default[:3, 3] = origin
        path = save(tmp_path / "scan.nii.gz", image(default, default))
        with pytest.raises(UnusableScan, match="just 1 mm along each axis"):
            read_volume(path)


def test_a_tilted_gantry_has_the_distance_of_its_planes(tmp_path: Path) -> None:
    tilted = affine()
    tilted[:3, 2] = affine()[:3, :3] @ [0, 12 / 4.25 * np.tan(np.radians(20)), 1]
    volume = read_volume(save(tmp_path / "scan.nii.gz", image(tilted)))
    assert volume.spacing == pytest.approx((12.0, 4.25, 4.25), rel=1e-4)
    assert volume.notes == ("gantry tilt 20 degrees",)
    np.testing.assert_array_equal(volume.hu, chest())


def test_axes_that_are_far_from_orthogonal_are_refused(tmp_path: Path) -> None:
    sheared = affine()
    sheared[:3, 2] = affine()[:3, :3] @ [0, 12 / 4.25 * np.tan(np.radians(60)), 1]
    with pytest.raises(UnusableScan, match="is sheared"):
        read_volume(save(tmp_path / "scan.nii.gz", image(sheared)))


def test_more_voxels_than_the_limit_are_refused_before_they_are_read(tmp_path: Path) -> None:
    """A small file may unpack to any size."""
    path = write_nifti(tmp_path / "scan.nii")
    for shape in ((4096, 4096, 1000), (30000, 30000, 2)):
        head = changed(path, 42, "<hhh", *shape).read_bytes()
        zipped = tmp_path / "scan.nii.gz"
        zipped.write_bytes(gzip.compress(head))
        with pytest.raises(UnusableScan, match="more than the limit") as caught:
            read_volume(zipped)
        assert caught.value.reason == "too large"


def at_one_mm(path: Path, shape: tuple[int, int, int], origin: list[float]) -> Path:
    zoomed = np.resize(chest().T, shape)
    made = np.diag([-1.0, -1.0, 1.0, 1.0])
    made[:3, 3] = origin
    return save(path, nib.Nifti1Image(zoomed, made))


def test_a_chest_resampled_to_one_mm_is_read(tmp_path: Path) -> None:
    path = at_one_mm(tmp_path / "scan.nii", (240, 220, 120), [120.5, 110.5, -300.0])
    assert read_volume(path).spacing == (1.0, 1.0, 1.0)


def test_the_default_of_a_header_without_geometry_is_refused(tmp_path: Path) -> None:
    """Programs put zero at the first voxel, or in the middle."""
    shape = (240, 220, 120)
    middle = [(count - 1) / 2 for count in shape]
    for origin in ([0.0] * 3, [middle[0], middle[1], -middle[2]]):
        with pytest.raises(UnusableScan, match="just 1 mm along each axis"):
            read_volume(at_one_mm(tmp_path / "scan.nii", shape, origin))


def test_a_field_of_view_that_no_scanner_has_is_refused(tmp_path: Path) -> None:
    large = affine()
    large[:3, :2] *= 5
    with pytest.raises(UnusableScan, match="more than any scanner's field of view"):
        read_volume(save(tmp_path / "scan.nii", image(large, large)))


def test_a_pair_without_its_image_names_what_is_missing(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.hdr")
    (tmp_path / "scan.img").unlink()
    with pytest.raises(InputError, match=r"scan\.hdr: cannot be read \(.*scan\.img: No such file"):
        read_volume(path)
