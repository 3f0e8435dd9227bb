"""Small DICOM series, written by pydicom."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"

Edit = Callable[[Dataset, int], object]


def chest(slices: int = 12, size: int = 32) -> np.ndarray:
    """(Z, Y, X) int16 HU: air, a body, two lungs and noise everywhere."""
    y, x = np.mgrid[:size, :size] / (size - 1) * 2 - 1
    noise = np.random.default_rng(0).normal(0, 25, (slices, size, size))
    hu = np.full((slices, size, size), -990.0)
    hu[:, (x / 0.95) ** 2 + (y / 0.7) ** 2 < 1] = 40
    for side in (-0.45, 0.5):  # not symmetric: a mirrored result is another
        hu[:, ((x - side) / 0.25) ** 2 + (y / 0.4) ** 2 < 1] = -800
    return (hu + noise).clip(-1024, 3071).astype(np.int16)


def ct_slice(
    hu: np.ndarray,
    index: int,
    spacing: tuple[float, float, float] = (4.0, 3.0, 2.0),
    series: str = "1.2.3",
) -> Dataset:
    """One slice of a well-formed series.

    Args:
        hu: (Y, X) HU.
        index: number of the slice.
        spacing: mm, (z, y, x).
        series: SeriesInstanceUID.
    """
    data, meta = Dataset(), FileMetaDataset()
    data.file_meta = meta
    data.SOPClassUID = meta.MediaStorageSOPClassUID = CT_IMAGE
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = f"{series}.{index + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Modality, data.SeriesInstanceUID, data.PatientID = "CT", series, "A-17"
    data.InstanceNumber, data.SeriesNumber = index + 1, 4
    data.SeriesDescription, data.ConvolutionKernel = "Chest 1.0", "B70f"
    data.Rows, data.Columns = hu.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.RescaleSlope, data.RescaleIntercept = "1", "-1024"
    data.PixelSpacing = list(spacing[1:])
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [0, 0, spacing[0] * index]
    set_values(data, hu.astype(np.int32) + 1024)
    return data


def set_values(data: Dataset, values: np.ndarray, kind: str = "<i2") -> None:
    """Store values as they are, in this type of numpy."""
    data.PixelData = np.ascontiguousarray(values).astype(kind).tobytes()
    data["PixelData"].VR = "OW"


def write_series(
    folder: Path,
    hu: np.ndarray,
    edit: Edit | None = None,
    name: Callable[[int], str] = "{:03d}.dcm".format,
    spacing: tuple[float, float, float] = (4.0, 3.0, 2.0),
    series: str = "1.2.3",
) -> Path:
    """Write (Z, Y, X) HU as a series, each slice changed by `edit`."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, plane in enumerate(hu):
        data = ct_slice(plane, index, spacing, series)
        if edit is not None:
            edit(data, index)
        path = folder / name(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        data.save_as(path, enforce_file_format=True)
    return folder


def write_bare(path: Path, data: Dataset, implicit: bool = True) -> None:
    """Write a data set with neither preamble nor file meta information."""
    del data.file_meta
    dcmwrite(path, data, implicit_vr=implicit, little_endian=True, enforce_file_format=False)


def write_other(path: Path, sop_class: str, modality: str, series: str = "9.9") -> None:
    """Write an object without pixels, such as a report."""
    data, meta = Dataset(), FileMetaDataset()
    data.file_meta = meta
    data.SOPClassUID = meta.MediaStorageSOPClassUID = sop_class
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = "9.9.1"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.Modality, data.SeriesInstanceUID = modality, series
    data.save_as(path, enforce_file_format=True)


def write_enhanced(path: Path, hu: np.ndarray, edit: Edit | None = None) -> None:
    """Write (Z, Y, X) HU as one multi-frame file with functional groups."""
    data = ct_slice(hu[0], 0)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = ENHANCED_CT
    shared, frames = Dataset(), []
    shared.PixelMeasuresSequence = _item(PixelSpacing=data.PixelSpacing)
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=data.ImageOrientationPatient)
    for index in range(len(hu)):
        frame = Dataset()
        frame.PlanePositionSequence = _item(ImagePositionPatient=[0, 0, 4.0 * index])
        frame.PixelValueTransformationSequence = _item(
            RescaleSlope="1", RescaleIntercept="-1024", RescaleType="HU"
        )
        frames.append(frame)
    for keyword in (
        "PixelSpacing",
        "ImageOrientationPatient",
        "ImagePositionPatient",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        delattr(data, keyword)
    data.NumberOfFrames = len(hu)
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    set_values(data, hu.astype(np.int32) + 1024)
    if edit is not None:
        edit(data, 0)
    data.save_as(path, enforce_file_format=True)


def transcode(path: Path, syntax: str) -> None:
    """Store a file in another transfer syntax, by GDCM."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def _item(**tags: object) -> Sequence:
    item = Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return Sequence([item])
