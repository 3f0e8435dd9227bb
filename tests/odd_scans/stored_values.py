"""Padding, values that are not HU, and slices whose values disagree."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from chest_files import (
    SLICES,
    affine,
    chest,
    put_pixels,
    save_dataset,
    slice_dataset,
    stored,
    write_series,
)
from odd_scans.case import (
    COLUMN,
    OUTSIDE,
    Write,
    dicom,
    either,
    equal,
    metaimage_of,
    nifti,
    refuse,
    values,
    without,
)


# Padding does not count as air, whatever its value.
def padded(value: int, signed: bool, limit: int | None = None, tag: bool = True) -> Write:
    def edit(dataset: Dataset, index: int) -> None:
        voxels = stored(index)
        voxels[OUTSIDE] = value
        if limit is not None:
            voxels[OUTSIDE & (COLUMN % 2 == 0)] = limit
        put_pixels(dataset, voxels, "<i2" if signed else "<u2")
        dataset.PixelRepresentation = int(signed)
        vr = "SS" if signed else "US"
        if tag:
            dataset.add_new(0x00280120, vr, value)
        if limit is not None:
            dataset.add_new(0x00280121, vr, limit)

    return dicom(edit)


RIGHT_PADDING = padded(-2000, signed=True)
equal("padding below, signed", RIGHT_PADDING, notes="padding", twin=padded(-2000, True, tag=False))
equal("padding 63536, unsigned", padded(63536, signed=False), RIGHT_PADDING)
equal("padding above, signed", padded(4096, signed=True), RIGHT_PADDING)
equal("padding above, unsigned", padded(32768, signed=False), RIGHT_PADDING)
equal("padding 0, below air", padded(0, signed=False), RIGHT_PADDING)
equal("padding with a range", padded(-3000, True, limit=-2000), RIGHT_PADDING)
equal("padding with a range above", padded(4000, True, limit=4100), RIGHT_PADDING)
either(
    "bright constant frame without a tag",
    "HU|padding|constant",
    padded(4095, True, tag=False),
    RIGHT_PADDING,
)


# Neither padding nor background makes raw values plausible.
def framed(hu: np.ndarray, value: int) -> np.ndarray:
    changed = hu.astype(np.int16)
    changed[:, OUTSIDE] = value
    return changed


NOT_HU = r"HU"
RAW = chest().astype(np.int32) + 1024
refuse("raw values, -1024 around", NOT_HU, nifti(affine(), hu=framed(RAW, -1024)))
refuse("raw values, -1000 around", NOT_HU, nifti(affine(), hu=framed(RAW, -1000)))
refuse(
    "raw values, -1000 around, .mha",
    NOT_HU,
    lambda f: metaimage_of(f / "odd.mha", framed(RAW, -1000)),
)
refuse(
    "raw values, noise of air around",
    NOT_HU,
    nifti(affine(), hu=np.where(OUTSIDE, -1000 + RAW % 2, RAW).astype(np.int16)),
)
refuse(
    "raw values in the lower half",
    NOT_HU,
    nifti(affine(), hu=np.concatenate([RAW[:12], chest()[12:]]).astype(np.int16)),
)
refuse(
    "rescaled twice, 0 around",
    NOT_HU,
    nifti(affine(), hu=framed(chest().astype(np.int32) - 1024, 0)),
)
refuse(
    "lungs cut out on 0",
    NOT_HU,
    nifti(affine(), hu=np.where(chest() < -500, chest(), 0).astype(np.int16)),
)


# Values of slices that disagree.
RESCALE = r"Rescale(Intercept|Slope)|rescale"
refuse(
    "three slices without intercept",
    RESCALE,
    without("RescaleIntercept", where=[10, 11, 12]),
)
refuse("three slices without slope", RESCALE, without("RescaleSlope", where=[10, 11, 12]))
refuse(
    "three slices with an empty intercept",
    RESCALE,
    dicom(lambda d, k: setattr(d, "RescaleIntercept", None) if k in (3, 4, 5) else None),
)
refuse("no slice has a rescale", "HU|Rescale", without("RescaleIntercept", "RescaleSlope"))
refuse(
    "half of another intercept",
    RESCALE,
    dicom(lambda d, k: setattr(d, "RescaleIntercept", "0") if k >= 12 else None),
)
refuse(
    "two patients", "patient|Patient", dicom(lambda d, k: setattr(d, "PatientID", f"P{k // 12}"))
)


def twice(folder: Path) -> Path:
    """Two acquisitions at the same positions under one series."""
    write_series(folder / "odd")
    for index in range(SLICES):
        dataset = slice_dataset(index)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.5.{index}"
        dataset.AcquisitionNumber, dataset.InstanceNumber = 2, 100 + index
        put_pixels(dataset, np.roll(stored(index), 3))
        save_dataset(dataset, folder / "odd" / f"b{index:03d}.dcm")
    return folder / "odd"


refuse("two acquisitions", "acquisition|position", twice)


def sop_class(uid: str) -> Write:
    def edit(dataset: Dataset, _: int) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid

    return dicom(edit)


equal("private SOP class", sop_class("1.3.12.2.1107.5.9.1"))
equal("unknown SOP class", sop_class("1.2.840.10008.5.1.4.1.1.9999"))


def modality_lut(dataset: Dataset, _: int) -> None:
    """A table from stored values to HU instead of the rescale."""
    item = Dataset()
    item.LUTDescriptor, item.ModalityLUTType = [4096, 0, 16], "HU"
    item.LUTData = (np.arange(4096) - 1024).astype("<i2").tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
    dataset.ModalityLUTSequence = Sequence([item])
    del dataset.RescaleSlope, dataset.RescaleIntercept


either("Modality LUT", "LUT|0028,\\s?3000", dicom(modality_lut))

# Display attributes do not affect stored values.
equal("MONOCHROME1", values(PhotometricInterpretation="MONOCHROME1"))
equal(
    "MONOCHROME1 in one slice",
    dicom(lambda d, k: setattr(d, "PhotometricInterpretation", "MONOCHROME1") if k == 9 else None),
)
equal(
    "window and inverse presentation",
    values(WindowCenter="40", WindowWidth="400", PresentationLUTShape="INVERSE"),
)
