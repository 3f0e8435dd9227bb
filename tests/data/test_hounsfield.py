"""What is HU, whatever padding and background look like."""

from pathlib import Path

import numpy as np
import pytest

from chest_files import chest
from multi_abnormality.data.io.hounsfield import to_hounsfield
from multi_abnormality.errors import UnusableScan

SCAN = Path("scan.nii.gz")
Y, X = np.mgrid[: chest().shape[1], : chest().shape[2]]
MIDDLE = (len(X) - 1) / 2
OUTSIDE = (Y - MIDDLE) ** 2 + (X - MIDDLE) ** 2 > MIDDLE**2  # of a round field of view


def convert(hu: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    return to_hounsfield(hu, hu.shape, hu.dtype.kind in "iu", SCAN)


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


@pytest.mark.parametrize("background", [-2000, -1024, -1000, -500, 0])
@pytest.mark.parametrize("place", [with_frame, around])
def test_raw_values_are_refused_whatever_is_around(place: object, background: int) -> None:
    with pytest.raises(UnusableScan, match="no air near -1000") as caught:
        convert(place(raw(chest()), background))
    assert caught.value.reason == "not HU"


@pytest.mark.parametrize("background", [-3000, -1024, 0, 40])
@pytest.mark.parametrize("place", [with_frame, around])
def test_values_rescaled_twice_are_refused_whatever_is_around(
    place: object, background: int
) -> None:
    with pytest.raises(UnusableScan, match="hardly any soft tissue near 0"):
        convert(place(chest().astype(np.int32) - 1024, background))


@pytest.mark.parametrize("background", [-2000, -1024, 0, 1000])
def test_lungs_alone_are_refused(background: int) -> None:
    """As a segmentation leaves them: inside the chest, and with the vessels in them."""
    body = np.hypot((Y - MIDDLE) / 15, (X - MIDDLE) / 19) < 1
    lungs = (chest() < -400) & body
    grown = lungs.copy()
    for axis in (1, 2):
        for step in (-1, 1):
            grown |= np.roll(lungs, step, axis) & body
    with pytest.raises(UnusableScan, match=r"only the lungs are there|hardly any soft tissue"):
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
