"""Checks that values are HU, with any padding and background."""

import numpy as np
import pytest
from scipy.ndimage import binary_propagation

from chest_files import chest
from multi_abnormality.data.io.hu_conversion import _reached_from_border, to_hounsfield
from multi_abnormality.utils.errors import UnusableScan

Y, X = np.mgrid[: chest().shape[1], : chest().shape[2]]
MIDDLE = (len(X) - 1) / 2
OUTSIDE = (Y - MIDDLE) ** 2 + (X - MIDDLE) ** 2 > MIDDLE**2  # of a round field of view


def convert(hu: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    return to_hounsfield(hu, hu.shape, hu.dtype.kind in "iu")


def with_frame(hu: np.ndarray, value: int) -> np.ndarray:
    return np.where(OUTSIDE, value, hu.astype(np.int32))


def around(hu: np.ndarray, value: int) -> np.ndarray:
    """The patient alone, on a constant background."""
    return np.where(chest() < -940, value, hu.astype(np.int32))


@pytest.mark.parametrize("value", [-8192, -2000, -1024, -1000])
def test_padding_that_is_air_or_less_is_clipped(value: int) -> None:
    hu, notes = convert(with_frame(chest(), value))
    np.testing.assert_array_equal(hu[:, ~OUTSIDE], chest()[:, ~OUTSIDE].clip(-1024))
    assert (hu[:, OUTSIDE] == max(value, -1024)).all()
    assert notes == (("padding",) if value < -1500 else ())


@pytest.mark.parametrize("value", [0, 3071, 32767, 63536])
def test_a_constant_frame_becomes_air(value: int) -> None:
    hu, notes = convert(with_frame(chest(), value))
    inside = ~OUTSIDE & (chest() != value)  # voxels of the same value may touch the frame
    np.testing.assert_array_equal(hu[inside], chest()[inside].clip(-1024))
    assert (hu[:, OUTSIDE] == -1024).all()
    assert notes == ("padding",)


def raw(hu: np.ndarray) -> np.ndarray:
    return (hu.astype(np.int32) + 1024).clip(0)


def test_a_frame_ends_where_it_is_not_connected_to_the_border() -> None:
    """As SciPy's propagation, on mazes of any density."""
    random = np.random.default_rng(0)
    for _ in range(200):
        mask = random.random(random.integers(2, 40, 2)) < random.uniform(0.1, 0.95)
        border = np.pad(np.zeros(np.subtract(mask.shape, 2), bool), 1, constant_values=True)
        expected = binary_propagation(border & mask, mask=mask)
        np.testing.assert_array_equal(_reached_from_border(mask), expected)


@pytest.mark.parametrize("background", [-2000, -1024, -1000, -500, 0])
@pytest.mark.parametrize("surround", [with_frame, around])
def test_raw_values_are_refused_with_any_surround(surround: object, background: int) -> None:
    with pytest.raises(UnusableScan, match=r"soft tissue near [19]\d\d+, not near 0") as caught:
        convert(surround(raw(chest()), background))
    assert caught.value.reason == "not HU"


def noisy_frame(hu: np.ndarray, value: float, noise: float = 10, radius: float = 1) -> np.ndarray:
    """A frame without a constant value, as where noise was added or an image was resampled."""
    outside = np.hypot(Y - MIDDLE, X - MIDDLE) > radius * MIDDLE
    around_it = np.random.default_rng(0).normal(value, noise, hu.shape)
    return np.where(outside, np.round(around_it), hu).astype(np.int32)


NO_HU = {
    "raw": (raw, "soft tissue near"),
    "raw of 1000": (lambda hu: hu.astype(np.int32) + 1000, "soft tissue near"),
    "raw at half a HU": (lambda hu: 2 * raw(hu), "soft tissue near"),
    "doubled": (lambda hu: 2 * hu.astype(np.int32), "lie below -1200"),
    "halved": (lambda hu: hu // 2, "hardly any values from"),
    "rescaled twice": (lambda hu: hu.astype(np.int32) - 1024, "hardly any soft tissue near 0"),
    "window": (lambda hu: hu.clip(-160, 240), "clipped to a window: nothing is below -160"),
    "8 bits": (
        lambda hu: (hu.clip(-160, 240).astype(np.int32) + 160) * 255 // 400,
        "nothing is below 0",
    ),
    "lung window": (lambda hu: hu.clip(-1350, -200), "clipped to a window for lungs"),
}


@pytest.mark.parametrize("kind", NO_HU)
@pytest.mark.parametrize("background", [None, -1000, -1024])
def test_values_that_are_not_hu_are_refused_also_in_a_noisy_frame(
    kind: str, background: int | None
) -> None:
    change, reason = NO_HU[kind]
    values = change(chest())
    with pytest.raises(UnusableScan, match=reason) as caught:
        convert(values if background is None else noisy_frame(values, background))
    assert caught.value.reason == "not HU"


@pytest.mark.parametrize("kind", ["rescaled twice"])
def test_a_noisy_frame_of_0_is_no_tissue(kind: str) -> None:
    with pytest.raises(UnusableScan, match="hardly any soft tissue near 0"):
        convert(noisy_frame(NO_HU[kind][0](chest()), 0))


@pytest.mark.parametrize("value", [-1000, 0, 40])
def test_one_value_alone_is_no_scan(value: int) -> None:
    with pytest.raises(UnusableScan, match="does not look like HU"):
        convert(np.full_like(chest(), value))


def noisy(hu: np.ndarray, noise: float) -> np.ndarray:
    return np.round(hu + np.random.default_rng(0).normal(0, noise, hu.shape)).astype(np.int32)


def with_contrast(hu: np.ndarray) -> np.ndarray:
    """Blood of 400 HU and more in a third of the plane's width."""
    heart = np.hypot(Y - MIDDLE, X - MIDDLE) < MIDDLE / 3
    return np.where(heart & (hu > 0) & (hu < 150), hu + 450, hu).astype(np.int32)


def of_a_child(hu: np.ndarray) -> np.ndarray:
    """A quarter of the field of view, the rest noise of air."""
    _, rows, columns = hu.shape
    wide = noisy(np.full((len(hu), 2 * rows, 2 * columns), -1000), 10)
    wide[:, rows // 2 : -rows // 2, columns // 2 : -columns // 2] = hu
    return wide


SCANS = {
    "noise of a low dose": lambda hu: noisy(hu, 60),
    "noise of a sharp kernel": lambda hu: noisy(hu, 150),
    "much noise, clipped at -1024": lambda hu: noisy(hu, 250).clip(-1024),
    "small field of view": lambda hu: hu[:, 12:36, 12:36],
    "contrast agent": with_contrast,
    "contrast agent in a small field of view": lambda hu: with_contrast(hu)[:, 12:36, 12:36],
    "metal": lambda hu: np.where((Y > 30) & (Y < 36) & (X > 20) & (X < 26), 3071, hu),
    "child": of_a_child,
    "body cut out": lambda hu: around(hu, -1024),
    "clipped to -1000 to 400": lambda hu: hu.clip(-1000, 400),
    "noisy frame of air": lambda hu: noisy_frame(hu, -1000, 60),
}


@pytest.mark.parametrize("kind", SCANS)
def test_unusual_scans_are_hu(kind: str) -> None:
    values = SCANS[kind](chest())
    np.testing.assert_array_equal(convert(values)[0], values.clip(-1024))


@pytest.mark.parametrize("kind", SCANS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_raw_values_of_unusual_scans_are_refused(kind: str, axis: int) -> None:
    values = SCANS[kind](chest()) + 1024
    with pytest.raises(UnusableScan):
        convert(np.ascontiguousarray(np.moveaxis(values, 0, axis)))


@pytest.mark.parametrize("background", [-3000, -1024, 0, 40])
@pytest.mark.parametrize("surround", [with_frame, around])
def test_values_rescaled_twice_are_refused_with_any_surround(
    surround: object, background: int
) -> None:
    with pytest.raises(UnusableScan, match="hardly any soft tissue near 0"):
        convert(surround(chest().astype(np.int32) - 1024, background))


@pytest.mark.parametrize("background", [-2000, -1024, 0, 1000])
def test_lungs_alone_are_refused(background: int) -> None:
    """As a segmentation leaves them: inside the chest, and with the vessels in them."""
    body = np.hypot((Y - MIDDLE) / 15, (X - MIDDLE) / 19) < 1
    lungs = (chest() < -400) & body
    grown = lungs.copy()
    for axis in (1, 2):
        for step in (-1, 1):
            grown |= np.roll(lungs, step, axis) & body
    with pytest.raises(UnusableScan, match=r"contains only the lungs|hardly any soft tissue"):
        convert(np.where(grown, chest().astype(np.int32), background))


def test_slices_without_their_rescale_are_refused() -> None:
    hu = chest().astype(np.int32)
    hu[10:13] += 1024
    words = r"all values of plane 1[03] lie about \d+ from those of the plane before"
    with pytest.raises(UnusableScan, match=words):
        convert(hu)


def test_fractional_values_are_kept() -> None:
    values = chest().astype(np.float32) + 0.25
    hu, notes = convert(values)
    assert hu.dtype == np.float32
    np.testing.assert_array_equal(hu, values.clip(-1024))
    assert notes == ()


@pytest.mark.parametrize("axis", [1, 2])
def test_slices_without_their_rescale_are_refused_along_every_axis(axis: int) -> None:
    hu = chest().astype(np.int32)
    hu[10:] += 1024
    turned = np.ascontiguousarray(np.moveaxis(hu, 0, axis))
    with pytest.raises(UnusableScan, match="as where the rescale is missing"):
        convert(turned)


@pytest.mark.parametrize("step", [8, 24, 50])
def test_values_in_steps_are_no_background(step: int) -> None:
    hu = np.round(chest() / step).astype(np.int16) * step
    np.testing.assert_array_equal(convert(hu)[0], hu.clip(-1024))


def test_a_background_that_reaches_into_the_plane_becomes_air() -> None:
    """As where arms and shoulders leave bays that no row or column crosses whole."""
    hu = chest().astype(np.int32)
    hu[:, 4:20, 4:8] = hu[:, 16:20, 4:20] = 0
    hu[:, OUTSIDE] = hu[:, :6, :6] = 0
    assert (convert(hu)[0][:, 17, 12:18] == -1024).all()
