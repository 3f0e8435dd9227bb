"""What is finer than the stored voxels averages out, as in SimpleITK's smoothed resampling.

A box (ours) and a Gaussian of its width (theirs) weigh neighbours differently, so the two agree
within the noise that each lets through, and not to the HU.
"""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from chest_phantom.cohort import plan_cohort
from chest_phantom.rasterize import draw_scan
from multi_abnormality.config.schema import PreprocessSpec, load_params
from multi_abnormality.data.io.read import Volume, read_volume
from multi_abnormality.data.preprocessing.quantization import code_table
from multi_abnormality.data.preprocessing.resample import resample_and_quantize

PROJECT = Path(__file__).resolve().parents[3]
REAL_CT = PROJECT / "../shared/real-ct"
needs_real_ct = pytest.mark.skipif(not REAL_CT.is_dir(), reason="no real scans beside the project")
INNER = (slice(2, -2),) * 3


@pytest.fixture(scope="module")
def recipe() -> PreprocessSpec:
    return load_params(PROJECT / "params.yaml").preprocess.recipe


def scan(hu: np.ndarray, spacing: tuple[float, float, float]) -> Volume:
    return Volume(hu, spacing, hu.shape[::-1], spacing[::-1], "LPS", affine=np.eye(4))


def smoothed_by_simpleitk(
    volume: Volume, recipe: PreprocessSpec, sigmas: float = 1.0
) -> np.ndarray:
    """Clip, smooth by a Gaussian as wide as a stored voxel's box, and take the voxels' centres.

    Args:
        sigmas: of the box's standard deviation; 0: not smoothed.
    """
    low, high = recipe.hu_to_uint8[0][0], recipe.hu_to_uint8[-1][0]
    image = sitk.GetImageFromArray(np.clip(volume.hu, low, high).astype(np.float32))
    image.SetSpacing(volume.spacing[::-1])
    image.SetOrigin(first_centre(volume.hu.shape, volume.spacing))
    if sigmas:
        widths = [sigmas * mm / np.sqrt(12) for mm in recipe.spacing[::-1]]
        image = sitk.DiscreteGaussian(image, [width**2 for width in widths], 64, 0.001)
    centre = first_centre(recipe.shape, recipe.spacing)
    reference = sitk.Resample(
        image, recipe.shape[::-1], sitk.Transform(), sitk.sitkLinear, centre, recipe.spacing[::-1]
    )
    return sitk.GetArrayFromImage(reference)


def first_centre(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> list[float]:
    """(x, y, x) mm from the centre of the volume."""
    return [-(n - 1) / 2 * mm for n, mm in zip(shape[::-1], spacing[::-1], strict=True)]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("period_fraction", [0.7, 0.55, 0.34, 0.21])
def test_waves_finer_than_two_voxels_fade(
    recipe: PreprocessSpec, axis: int, period_fraction: float
) -> None:
    """Nothing of a wave shorter than a stored voxel may come back as a longer one.

    Picking voxels keeps its height whole; a box keeps at most |sinc| of it.
    """
    spacing = tuple(mm / 12 if index == axis else mm for index, mm in enumerate(recipe.spacing))
    target = recipe.model_copy(update={"shape": (20, 20, 20)})
    counts = [20 * 12 if index == axis else 20 for index in range(3)]
    period = period_fraction * 12  # source voxels
    wave = 100 * np.sin(2 * np.pi * np.arange(counts[axis]) / period + 0.4)
    along = [np.newaxis] * 3
    along[axis] = slice(None)
    hu = np.broadcast_to(wave[tuple(along)], counts).astype(np.float32)

    ours = code_table(target)[resample_and_quantize(scan(hu, spacing), target)][INNER]
    picked = hu[tuple(slice(6, None, 12) if index == axis else slice(None) for index in range(3))]

    kept = abs(np.sinc(1 / period_fraction)) * 100
    assert np.abs(ours).max() <= kept * 1.05 + 2  # half a code is 1.6 HU here
    assert np.abs(picked[INNER]).max() > 80


def test_finer_noise_averages_out(recipe: PreprocessSpec) -> None:
    """As the root of the number of voxels: 1000 under one leave a thirtieth."""
    target = recipe.model_copy(update={"spacing": (10.0, 10.0, 10.0), "shape": (10, 10, 10)})
    noise = np.random.default_rng(0).normal(0, 100, (100, 100, 100)).astype(np.float32)

    ours = code_table(target)[resample_and_quantize(scan(noise, (1.0, 1.0, 1.0)), target)]

    assert ours.std() == pytest.approx(100 / np.sqrt(1000), rel=0.15)


def difference(volume: Volume, recipe: PreprocessSpec, sigmas: float = 1.0) -> np.ndarray:
    """|HU| between ours and SimpleITK's where both have the whole box inside of the scan."""
    ours = code_table(recipe)[resample_and_quantize(volume, recipe)]
    theirs = smoothed_by_simpleitk(volume, recipe, sigmas)
    inside = ours > recipe.hu_to_uint8[0][0]
    return np.abs(ours - theirs)[INNER][inside[INNER]]


def assert_agrees(volume: Volume, recipe: PreprocessSpec) -> None:
    """Mean within 8 HU, nine of ten voxels within 20, 99 of 100 within 60.

    Most of that is the noise that a Gaussian's and a box's weights leave differently. Without
    smoothing, every one of these is several times as much.
    """
    smoothed = difference(volume, recipe)
    assert smoothed.mean() < 8
    assert np.percentile(smoothed, 90) < 20
    assert np.percentile(smoothed, 99) < 60
    assert difference(volume, recipe, sigmas=0).mean() > 3 * smoothed.mean()


def test_agrees_with_simpleitk_on_a_phantom(recipe: PreprocessSpec) -> None:
    hu, protocol = draw_scan(plan_cohort(patients=6, seed=0)[0], size=256, slices=120)

    assert_agrees(scan(hu, protocol.spacing), recipe)


@needs_real_ct
@pytest.mark.parametrize(
    "name",
    ["LIDC-IDRI-0001_2.5mm_int16", "LungDx-A0001_5mm_dcm2niix", "pyradiomics_lung1_5mm_int16"],
)
def test_agrees_with_simpleitk_on_a_real_chest(recipe: PreprocessSpec, name: str) -> None:
    assert_agrees(read_volume(REAL_CT / f"chest_{name}.nii.gz"), recipe)
