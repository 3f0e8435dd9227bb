"""Resampling: positions, means, no aliasing, and the same bytes for every orientation."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.sparse import csr_array

from multi_abnormality.config.schema import PreprocessSpec
from multi_abnormality.data.io.read import Volume, read_volume
from multi_abnormality.data.preprocessing.quantization import code_table
from multi_abnormality.data.preprocessing.resample import _average, _axis, resample_and_quantize
from multi_abnormality.utils.errors import InputError

REAL_CT = Path(__file__).resolve().parents[4] / "shared/real-ct"
needs_real_ct = pytest.mark.skipif(not REAL_CT.is_dir(), reason="no real scans beside the project")
KNOTS = ((-1024, 0), (-200, 80), (240, 226), (1024, 255))


def recipe(
    spacing: tuple[float, float, float] = (4.0, 3.0, 3.0),
    shape: tuple[int, int, int] = (16, 24, 24),
) -> PreprocessSpec:
    return PreprocessSpec(spacing=spacing, shape=shape, hu_to_uint8=KNOTS)


def scan(hu: np.ndarray, spacing: tuple[float, float, float]) -> Volume:
    return Volume(hu, spacing, hu.shape[::-1], spacing[::-1], "LPS", affine=np.eye(4))


def code_of(hu: float) -> int:
    return round(float(np.interp(hu, *zip(*KNOTS, strict=True))))


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("value", [-1024, -600, 37, 1023])
def test_constant_stays_constant(dtype: type, value: int) -> None:
    volume = scan(np.full((90, 120, 130), value, dtype), (1.0, 0.7, 0.65))

    codes = resample_and_quantize(volume, recipe())

    assert codes.dtype == np.uint8
    assert np.unique(codes).tolist() == [code_of(value)]


def test_every_whole_hu_keeps_its_code_through_the_sums() -> None:
    values = np.arange(-1024, 1025, dtype=np.int16)
    hu = np.broadcast_to(values[:, None, None], (2049, 20, 20))
    thin = recipe(spacing=(1.0, 3.3, 2.9), shape=(2049, 4, 4))

    codes = resample_and_quantize(scan(hu, (1.0, 0.7, 0.65)), thin)

    wanted = np.array([code_of(value) for value in values])
    assert (codes == wanted[:, None, None]).all()


def test_outside_the_scan_is_air() -> None:
    volume = scan(np.full((40, 40, 40), 100, np.int16), (1.0, 1.0, 1.0))

    codes = resample_and_quantize(volume, recipe(spacing=(2.0, 2.0, 2.0), shape=(30, 30, 30)))

    assert (codes[5:25, 5:25, 5:25] == code_of(100)).all()
    codes[5:25, 5:25, 5:25] = 0
    assert not codes.any()


def test_whole_shrinking_is_the_plain_mean() -> None:
    random = np.random.default_rng(0)
    hu = random.integers(-1000, 1000, (32, 48, 48), dtype=np.int16)
    mean = hu.reshape(16, 2, 24, 2, 24, 2).mean(axis=(1, 3, 5))

    codes = resample_and_quantize(scan(hu, (2.0, 1.5, 1.5)), recipe())

    wanted = np.interp(mean, *zip(*KNOTS, strict=True))
    assert np.abs(codes - wanted).max() <= 0.51  # rounding, and an eighth of a HU


def test_enlarging_is_linear_interpolation() -> None:
    line = np.array([-900, -500, -700, 100, 0, 50, -100, 200], np.int16)
    volume = scan(np.tile(line, (8, 8, 1)), (4.0, 4.0, 4.0))

    codes = resample_and_quantize(volume, recipe(spacing=(4.0, 4.0, 1.0), shape=(8, 8, 32)))

    centres = (np.arange(32) - 15.5) * 1.0
    wanted = np.interp(centres, (np.arange(8) - 3.5) * 4.0, line)
    assert np.abs(codes[4, 4] - np.interp(wanted, *zip(*KNOTS, strict=True))).max() <= 0.51


def test_pattern_finer_than_the_target_does_not_alias() -> None:
    hu = np.full((32, 72, 72), -800, np.int16)
    hu[:, ::2, :] = 800  # stripes 2 mm apart under voxels of 3 mm

    codes = resample_and_quantize(scan(hu, (2.0, 1.0, 1.0)), recipe())

    # Three rows a voxel, one or two of them bright: picking rows would give -800 and 800.
    inner = code_table(recipe())[codes[:, 2:-2, 2:-2]]
    assert inner.min() >= -800 / 3 - 8
    assert inner.max() <= 800 / 3 + 8


def test_metal_and_padding_do_not_bleed() -> None:
    hu = np.zeros((32, 48, 48), np.int16)
    hu[16, 24, 24], hu[8, 12, 12] = 30000, -30000
    clipped = hu.clip(-1024, 1024)

    np.testing.assert_array_equal(
        resample_and_quantize(scan(hu, (2.0, 1.5, 1.5)), recipe()),
        resample_and_quantize(scan(clipped, (2.0, 1.5, 1.5)), recipe()),
    )


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.9), (0.8, 2.5, 1.7)])
@pytest.mark.parametrize("position", [(-11.0, 13.0, -17.0), (9.5, -8.0, 20.0)])
def test_a_block_keeps_its_position(
    spacing: tuple[float, float, float], position: tuple[float, float, float]
) -> None:
    """Its centre of mass in mm from the volume's centre, whatever the spacing."""
    counts = [round(120 / mm) for mm in spacing]
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(counts, spacing, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    near = [np.abs(axis - mm) <= 10 for axis, mm in zip(grid, position, strict=True)]
    hu = np.where(np.logical_and.reduce(near), 200, -200).astype(np.int16)
    true_centre = [axis[hu > 0].mean() for axis in grid]
    target = recipe(spacing=(4.0, 3.0, 3.0), shape=(28, 38, 38))

    weight = code_table(target)[resample_and_quantize(scan(hu, spacing), target)] + 200

    weight[weight < 10] = 0
    for axis, (count, mm) in enumerate(zip(target.shape, target.spacing, strict=True)):
        position = (np.arange(count) - (count - 1) / 2) * mm
        others = tuple(other for other in range(3) if other != axis)
        found = (weight.sum(axis=others) * position).sum() / weight.sum()
        assert found == pytest.approx(true_centre[axis], abs=0.1 * mm)


def smooth_field(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> np.ndarray:
    z, y, x = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)),
        indexing="ij",
    )
    return 100 * np.sin(z / 12) + 80 * np.cos(y / 15) * np.sin(x / 14)


def test_agrees_with_simpleitk_on_a_smooth_field() -> None:
    """Within 4 HU: a box and a Gaussian of the same width differ on it by no more."""
    shape, spacing = (60, 90, 100), (1.2, 0.8, 0.75)
    target = recipe(spacing=(3.0, 2.5, 2.5), shape=(20, 24, 24))
    field = smooth_field(shape, spacing).astype(np.float32)
    image = sitk.GetImageFromArray(field)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin([-(n - 1) / 2 * mm for n, mm in zip(shape[::-1], spacing[::-1], strict=True)])
    sigma = [mm / np.sqrt(12) for mm in target.spacing[::-1]]  # a box's standard deviation
    reference = sitk.Resample(
        sitk.SmoothingRecursiveGaussian(image, sigma),
        target.shape[::-1],
        sitk.Transform(),
        sitk.sitkLinear,
        [-(n - 1) / 2 * mm for n, mm in zip(target.shape, target.spacing, strict=True)][::-1],
        target.spacing[::-1],
    )

    ours = code_table(target)[resample_and_quantize(scan(field, spacing), target)]

    inner = (slice(2, -2),) * 3
    difference = ours[inner] - sitk.GetArrayFromImage(reference)[inner]
    assert np.abs(difference).max() < 4


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
@pytest.mark.parametrize("step", [1, -1])
def test_memory_layout_changes_no_bit(order: tuple[int, int, int], step: int) -> None:
    hu = np.random.default_rng(1).normal(0, 300, (50, 60, 70)).astype(np.float32)
    back = np.argsort(order)
    turned = np.ascontiguousarray(hu.transpose(order)[::step, ::step, ::step])
    view = turned[::step, ::step, ::step].transpose(back)
    np.testing.assert_array_equal(view, hu)

    np.testing.assert_array_equal(
        resample_and_quantize(scan(view, (1.3, 0.9, 0.7)), recipe()),
        resample_and_quantize(scan(hu, (1.3, 0.9, 0.7)), recipe()),
    )


@pytest.mark.parametrize("spacing", [360 / 512, 400 / 512, 0.7, 5.0])
def test_header_noise_changes_no_bit(spacing: float) -> None:
    hu = np.random.default_rng(2).integers(-1000, 1000, (40, 60, 60), dtype=np.int16)
    noisy = np.nextafter(np.float32(spacing), np.float32(9)).item()

    np.testing.assert_array_equal(
        resample_and_quantize(scan(hu, (2.0, noisy, noisy)), recipe()),
        resample_and_quantize(scan(hu, (2.0, spacing, spacing)), recipe()),
    )


def test_codes_are_exact_at_the_knots_and_invert() -> None:
    table = code_table(recipe())

    assert table.shape == (256,)
    assert table.dtype == np.float32
    assert {int(table[code]): code for _, code in KNOTS} == dict(KNOTS)
    assert (np.diff(table) > 0).all()
    # Each code's HU, put into a volume, comes back as that code.
    hu = np.broadcast_to(table, (16, 16, 256)).astype(np.float32)
    same_grid = recipe(spacing=(1.0, 1.0, 1.0), shape=(16, 16, 256))
    codes = resample_and_quantize(scan(hu, (1.0, 1.0, 1.0)), same_grid)
    np.testing.assert_array_equal(codes[3, 4], np.arange(256))
    np.testing.assert_allclose(table[codes], hu)


def test_sums_are_those_of_a_sparse_product() -> None:
    """Every bit of the means, before they are rounded to codes: no sum may be in another order."""
    hu = np.random.default_rng(3).normal(0, 300, (45, 70, 90)).astype(np.float32)
    for mm in ((1.3, 0.9, 0.7), (5.0, 4.0, 3.5)):  # coarser and finer than the target
        grid = zip(hu.shape, mm, recipe().shape, recipe().spacing, strict=True)
        z, y, x = axes = [_axis(*axis) for axis in grid]
        expected = np.zeros((len(z.weights), len(x.weights), len(y.weights)), np.float32)
        rows, columns = csr_array(y.weights), csr_array(x.weights)
        for index, plane in enumerate(hu[z.source, y.source, x.source].clip(-1024, 1024)):
            small = columns @ (rows @ plane).T
            for target in np.flatnonzero(z.weights[:, index]):
                expected[target] += z.weights[target, index] * small
        np.testing.assert_array_equal(_average(hu, axes, -1024, 1024), expected)


def test_too_coarse_a_recipe_is_refused() -> None:
    volume = scan(np.zeros((10, 10, 10), np.int16), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match=r"preprocess\.spacing"):
        resample_and_quantize(volume, recipe(spacing=(30.0, 3.0, 3.0)))


@needs_real_ct
def test_real_orientations_give_the_same_bytes() -> None:
    paths = sorted(REAL_CT.glob("chest_CIP_ct64_*.nii.gz"))
    target = recipe(spacing=(9.0, 3.75, 3.75), shape=(32, 96, 96))
    results = [resample_and_quantize(read_volume(path), target) for path in paths]

    assert len(results) == 5
    assert all(result.tobytes() == results[0].tobytes() for result in results)
    assert results[0].std() > 20
