"""Detection of geometries that programs write by default."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from chest_files import chest
from multi_abnormality.data.io.geometry import is_default_geometry
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.utils.errors import UnusableScan

ORIGIN = (83.5, -71.25, 412.0)


def at_1_mm(origin: tuple[float, float, float] = ORIGIN) -> np.ndarray:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = origin
    return affine


@pytest.mark.parametrize(
    ("shape", "is_default"),
    [
        ((150, 120, 130), False),  # a child, resampled to 1 mm
        ((110, 90, 64), False),  # a newborn
        ((190, 150, 180), False),
        ((350, 280, 320), False),
        ((512, 512, 300), False),
        ((512, 512, 80), True),  # a scanner's matrix
        ((80, 512, 512), True),
        ((256, 256, 64), True),
        ((64, 64, 79), True),  # smaller than a newborn
        ((200, 200, 40), True),
        ((48, 48, 24), True),
    ],
)
def test_1_mm_by_size(shape: tuple[int, int, int], is_default: bool) -> None:
    assert is_default_geometry(at_1_mm(), shape) == is_default
    assert is_default_geometry(at_1_mm((0, 0, 0)), shape)
    middle = (np.array(shape) - 1) / 2
    for corner in (0, 0.5):
        x, y, z = middle + corner
        assert is_default_geometry(at_1_mm((x, y, -z)), shape)
    assert not is_default_geometry(np.diag([1.001, 1, 1, 1]) @ at_1_mm(), shape)


@pytest.mark.parametrize("size", [2, 3])
def test_a_small_childs_scan_at_1_mm_is_read(tmp_path: Path, size: int) -> None:
    hu = chest().repeat(4, 0).repeat(size, 1).repeat(size, 2)  # 96 mm, with sides of 96 or 144 mm
    nib.Nifti1Image(hu.T, at_1_mm()).to_filename(tmp_path / "child.nii")
    if size == 2:
        with pytest.raises(UnusableScan, match="just 1 mm along each axis"):
            read_volume(tmp_path / "child.nii")
        return
    volume = read_volume(tmp_path / "child.nii")
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.spacing == (1.0, 1.0, 1.0)
