"""CT-RATE's two releases: the same scan must give the same volume from either."""

import nibabel
import numpy as np
import pytest

from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.io.series_metadata import Series
from multi_abnormality.utils.errors import UnusableScan

AXIAL = "[1, 0, 0, 0, 1, 0]"
SERIES = Series("1", "-1024", "[0.8, 0.8]", "2.5", AXIAL, "HFS")
SHAPE = (24, 20, 12)


@pytest.fixture
def hu() -> np.ndarray:
    """(I, J, K) of an axial scan: each axis rises to the left, the back and the head."""
    return np.random.default_rng(0).integers(-1024, 300, SHAPE, dtype=np.int16)


def save(path, voxels, affine, codes=(1, 1)):
    image = nibabel.Nifti1Image(voxels, affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1])
    nibabel.save(image, path)
    return path


def v2(path, hu):
    return save(path, hu, np.diag([-0.8, -0.8, 2.5, 1]))


BLANK = {
    "no coordinates": (np.eye(4), (0, 0)),
    "nibabel's default": (np.eye(4), (2, 0)),
    "ITK's default": (np.diag([-1, -1, 1, 1]), (1, 1)),
}


@pytest.mark.parametrize("blank", BLANK.values(), ids=BLANK)
def test_both_releases_give_the_same_volume(tmp_path, hu, blank):
    affine, codes = blank
    raw = save(tmp_path / "raw.nii.gz", (hu + 1024).astype(np.int16), affine, codes)
    first = read_volume(raw, SERIES)
    fixed = read_volume(v2(tmp_path / "fixed.nii.gz", hu), SERIES)
    assert (first.release, fixed.release) == ("v1", "v2")
    np.testing.assert_array_equal(first.hu, fixed.hu)
    assert first.spacing == pytest.approx(fixed.spacing)
    assert first.original_axes == fixed.original_axes == "LPS"


def test_a_right_header_counts_more_than_the_table_and_is_never_rescaled_again(tmp_path, hu):
    path = v2(tmp_path / "scan.nii.gz", hu)
    alone = read_volume(path)
    with_table = read_volume(path, Series("2", "-1024", "[9, 9]", "9", "[0, 1, 0, 1, 0, 0]", "HFS"))
    np.testing.assert_array_equal(with_table.hu, alone.hu)
    assert with_table.spacing == alone.spacing
    assert with_table.notes == ("another spacing in the metadata",)


def test_slope_and_intercept_are_the_tables_own(tmp_path, hu):
    padded = hu.copy()
    padded[:2] = -8192
    raw = save(tmp_path / "raw.nii.gz", (padded + 8192) // 2, *BLANK["no coordinates"])
    volume = read_volume(raw, Series("2", "-8192", "[0.8, 0.8]", "2.5", AXIAL, "HFS"))
    np.testing.assert_array_equal(volume.hu[:, :, :2], -1024)
    assert np.abs(volume.hu.transpose(2, 1, 0)[2:] - hu[2:]).max() <= 1
    assert volume.notes == ("padding",)


def test_directions_lead_a_blank_header(tmp_path, hu):
    """Feet first and prone: rows run to the right, columns to the front, slices to the head."""
    raw = (hu + 1024)[::-1, ::-1].astype(np.int16)
    path = save(tmp_path / "raw.nii.gz", raw, *BLANK["no coordinates"])
    series = Series("1", "-1024", "[0.8, 0.8]", "2.5", "[-1, 0, 0, 0, -1, 0]", "FFP")
    volume = read_volume(path, series)
    np.testing.assert_array_equal(volume.hu.transpose(2, 1, 0), hu)
    assert volume.original_axes == "RAS"
    assert volume.notes == ("feet first",)


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        (Series("1", "-1024", "[0.8, 0.8]", "nan", AXIAL), "ZSpacing for it is 'nan'"),
        (Series("1", "-1024", "[0.8]", "2.5", AXIAL), "XYSpacing"),
        (Series("1", "-1024", "[0.8, 0.8]", "2.5", ""), "ImageOrientationPatient"),
        (Series("", "-1024", "[0.8, 0.8]", "2.5", AXIAL), "RescaleSlope"),
        (Series("1", "-1024", "[0.8, 0.8]", "2500", AXIAL), "its spacing is"),
        (
            Series("1", "-1024", "[0.8, 0.8]", "2.5", "[1, 0, 0, 1, 0, 0]"),
            "ImageOrientationPatient",
        ),
        (Series("1", "-1024", "[0.8, 0.8]", "2.5", "[2, 0, 0, 0, 2, 0]"), "OrientationPatient"),
        (Series("1", "-1024", "[0.8, 0.8]", "-2.5", AXIAL), "ZSpacing for it is '-2.5'"),
        (Series("1", "-1024", "[-0.8, 0.8]", "2.5", AXIAL), "XYSpacing"),
        (Series("1", "-2048", "[0.8, 0.8]", "2.5", AXIAL), "does not look like HU"),
        (Series("0", "-1024", "[0.8, 0.8]", "2.5", AXIAL), "cannot lead to HU"),
        (None, "metadata table"),
    ],
)
def test_what_fits_neither_release_is_refused(tmp_path, hu, series, expected):
    raw = (hu + 1024).astype(np.int16)
    path = save(tmp_path / "raw.nii.gz", raw, *BLANK["no coordinates"])
    with pytest.raises(UnusableScan, match=expected) as caught:
        read_volume(path, series)
    assert str(path) in str(caught.value)
    assert caught.value.reason in ("geometry", "not HU")


def test_raw_values_under_a_right_header_and_hu_under_a_blank_one_are_refused(tmp_path, hu):
    raw = v2(tmp_path / "raw.nii.gz", (hu + 1024).astype(np.int16))
    with pytest.raises(UnusableScan, match="soft tissue near"):
        read_volume(raw, SERIES)
    blank = save(tmp_path / "hu.nii.gz", hu, *BLANK["no coordinates"])
    with pytest.raises(UnusableScan, match="Rescaled twice"):
        read_volume(blank, SERIES)


def test_dense_bone_of_hu_rescaled_twice_is_not_taken_for_soft_tissue(tmp_path, hu):
    hu[:2, :10, 0] = 1024  # 0.3 %: would come to 0 HU
    path = save(tmp_path / "hu.nii.gz", hu, *BLANK["nibabel's default"])
    with pytest.raises(UnusableScan, match="Rescaled twice"):
        read_volume(path, SERIES)


@pytest.mark.parametrize("blank", BLANK.values(), ids=BLANK)
def test_a_blank_header_is_not_believed_where_the_table_lacks_the_row(tmp_path, hu, blank):
    path = save(tmp_path / "hu.nii.gz", hu, *blank)
    with pytest.raises(UnusableScan, match="metadata table") as caught:
        read_volume(path)
    assert caught.value.reason == "geometry"


def test_a_scan_of_true_1_mm_voxels_keeps_its_header(tmp_path, hu):
    path = save(tmp_path / "scan.nii.gz", hu, np.eye(4))
    series = Series("1", "-1024", "[1, 1]", "1.0", AXIAL, "HFS")
    assert read_volume(path, series).release == "v2"
    assert read_volume(path, series).notes == ()
