"""Geometry that is missing, a default, contradictory, oblique or rounded."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from chest_files import (
    ORIGIN,
    affine,
    position,
    put_pixels,
    stored,
    write_metaimage,
    write_nrrd,
    write_series,
)
from odd_scans.case import (
    CORNER_TO_CORNER,
    Write,
    dicom,
    either,
    equal,
    nifti,
    refuse,
    values,
    without,
)

# A toolkit's default must not replace a tag that is missing, empty, zero or malformed.
PIXEL_SPACING = r"PixelSpacing|0028,\s?0030"
ORIENTATION = r"ImageOrientationPatient|0020,\s?0037"
POSITION = r"ImagePositionPatient|0020,\s?0032"
refuse("pixel spacing missing", PIXEL_SPACING, without("PixelSpacing"))
refuse(
    "pixel spacing missing in one slice",
    PIXEL_SPACING,
    without("PixelSpacing", where=[7]),
)
refuse("pixel spacing empty", PIXEL_SPACING, values(PixelSpacing=None))
refuse("pixel spacing zero", PIXEL_SPACING, values(PixelSpacing=[0, 0]))
refuse("pixel spacing negative", PIXEL_SPACING, values(PixelSpacing=[-4.25, 4.25]))
refuse("pixel spacing of one number", PIXEL_SPACING, values(PixelSpacing="4.25"))
refuse("position missing", POSITION, without("ImagePositionPatient"))
refuse("position empty", POSITION, values(ImagePositionPatient=None))
refuse("orientation empty", ORIENTATION, values(ImageOrientationPatient=None))
refuse("orientation of zeros", ORIENTATION, values(ImageOrientationPatient=[0] * 6))
refuse(
    "orientation far from orthogonal",
    ORIENTATION,
    values(ImageOrientationPatient=[1, 0, 0, 0.5, 0.9, 0]),
)


def prone(orientation: list[float] | None) -> Write:
    """Slices turned by 180 degrees about z."""

    def edit(dataset: Dataset, index: int) -> None:
        put_pixels(dataset, stored(index)[::-1, ::-1])
        corner = [ORIGIN[0] + CORNER_TO_CORNER[0], ORIGIN[1] + CORNER_TO_CORNER[1]]
        dataset.ImagePositionPatient = [*(f"{v:.4f}" for v in corner), position(index)[2]]
        dataset.ImageOrientationPatient = orientation
        if orientation is None:
            del dataset.ImageOrientationPatient

    return dicom(edit)


refuse("orientation missing", ORIENTATION, prone(None))
equal("prone", prone([-1, 0, 0, 0, -1, 0]))
equal("orientation not quite orthogonal", prone([-1, 0.002, 0, 0, -1, 0]))
equal("orientation in two decimals", prone([-1, 0.01, 0, 0, -1, 0.01]), prone([-1, 0, 0, 0, -1, 0]))
refuse(
    "MetaImage without spacing",
    "ElementSpacing",
    lambda f: write_metaimage(f / "odd.mha", ElementSpacing=""),
)
refuse(
    "MetaImage with a key that contains ElementSpacing", "ElementSpacing",
    lambda f: write_metaimage(f / "odd.mha", ElementSpacing="", NotElementSpacing="4.25 4.25 12"),
)  # fmt: skip
refuse(
    "NRRD without spacing",
    "space directions|spacing",
    lambda f: write_nrrd(f / "odd.nrrd", space_directions=""),
)
refuse(
    "NRRD without a space",
    "space",
    lambda f: write_nrrd(f / "odd.nrrd", space="", space_directions="", space_origin=""),
)

# A program's default geometry is not the scanner's.
BLANK = {"ElementSpacing": "1 1 1", "Offset": "0 0 0"}
GEOMETRY = r"1 mm|default|blank|spacing"
refuse("MetaImage blank", GEOMETRY, lambda f: write_metaimage(f / "odd.mha", **BLANK))
refuse(
    "MetaImage blank, compressed",
    GEOMETRY,
    lambda f: write_metaimage(f / "odd.mha", compressed=True, **BLANK),
)
refuse("MetaImage blank, .mhd", GEOMETRY, lambda f: write_metaimage(f / "odd.mhd", **BLANK))
refuse(
    "MetaImage of 1 mm at an origin",
    GEOMETRY,
    lambda f: write_metaimage(f / "odd.mha", ElementSpacing="1 1 1"),
)
BLANK_NRRD = {"space_directions": "(1,0,0) (0,1,0) (0,0,1)", "space_origin": "(0,0,0)"}
refuse("NRRD blank", GEOMETRY, lambda f: write_nrrd(f / "odd.nrrd", **BLANK_NRRD))


def moved(*, mirror: bool = False, scale: float = 1.0) -> np.ndarray:
    changed = affine()
    changed[:3, 0] *= -1 if mirror else 1
    changed[:3, :3] *= scale
    return changed


refuse("NIfTI blank", GEOMETRY, nifti(np.eye(4)))

# Two fields of a header contradict each other.
CONTRADICTION = r"sform|qform|pixdim|contradict|disagree|differ"
refuse("sform mirrors qform", CONTRADICTION, nifti(moved(mirror=True), affine()))
refuse("qform mirrors sform", CONTRADICTION, nifti(affine(), moved(mirror=True)))
refuse("sform of another spacing", CONTRADICTION, nifti(moved(scale=2), affine()))
refuse("pixdim of another spacing", CONTRADICTION, nifti(affine(), pixdim=[1, 2, 2, 6, 1, 1, 1, 1]))
either(
    "spacing in metres", "unit|spacing", nifti(moved(scale=1e-3), moved(scale=1e-3), xyzt_units=1)
)
either(
    "spacing in micrometres",
    "unit|spacing",
    nifti(moved(scale=1e3), moved(scale=1e3), xyzt_units=3),
)

# Slices that lie obliquely on each other: both formats give the distance between their planes.
DRIFT = 3.0  # mm from slice to slice


def tilted(folder: Path) -> Path:
    return write_series(folder, lambda d, k: setattr(d, "ImagePositionPatient", position(k, DRIFT)))


def tilted_affine() -> np.ndarray:
    changed = affine()
    changed[1, 2] = -DRIFT
    return changed


equal("gantry tilt, DICOM", tilted, nifti(tilted_affine()), notes="tilt|slant|shear")
equal(
    "gantry tilt, NIfTI", nifti(tilted_affine(), suffix=".nii.gz"), tilted, notes="tilt|slant|shear"
)


# Tolerances are wider than the rounding of the numbers.
def thin(decimals: int, step: float = 0.625) -> Write:
    def edit(dataset: Dataset, index: int) -> None:
        z = round(step * index, decimals)
        dataset.ImagePositionPatient = [f"{ORIGIN[0]:.1f}", f"{ORIGIN[1]:.1f}", f"{z:.{decimals}f}"]

    return dicom(edit)


equal("positions rounded to 0.1 mm", thin(1), thin(4))
equal("positions rounded to 0.1 mm, 0.33 mm apart", thin(1, 2 / 3), thin(4, 2 / 3))
equal(
    "spacing in two decimals in some",
    dicom(
        lambda d, k: setattr(d, "PixelSpacing", ["4.25", "4.25"] if k % 2 else ["4.2513", "4.2513"])
    ),
)
