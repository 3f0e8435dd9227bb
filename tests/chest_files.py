"""A small chest CT in valid files of every format."""

import gzip
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import gdcm
import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from chest_phantom.cohort import plan_cohort
from chest_phantom.rasterize import draw_scan
from multi_abnormality.data.io.reader_registry import format_of
from multi_abnormality.utils.errors import UnusableScan

REAL_CT = Path(__file__).resolve().parents[2] / "shared/real-ct"
SLICES, SIZE = 24, 48
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SERIES_UID = "1.2.826.0.1.3680043.8.498.9"
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from LPS coordinates

Edit = Callable[[Dataset, int], object]
"""Changes the dataset of the slice with this index."""


@cache
def chest() -> np.ndarray:
    """Return (Z, Y, X) int16 HU that rise to the head, the back and the left."""
    path = REAL_CT / "chest_CIP_ct64_4mm_int16_LPS.nii.gz"
    if path.exists():
        voxels = np.asarray(nib.load(path).dataobj).T[: SLICES * 3, 8:56, 8:56]
        hu = voxels.reshape(SLICES, 3, SIZE, SIZE).mean(1).round().astype(np.int16)
    else:
        drawn, _ = draw_scan(plan_cohort(2, seed=0)[0], 1, 64, SLICES)
        picked = np.linspace(0, len(drawn) - 1, SLICES).round().astype(int)
        hu = drawn[picked, 8:56, 8:56].copy()
    hu.flags.writeable = False
    return hu


SPACING = (12.0, 4.25, 4.25)  # mm, (z, y, x)
ORIGIN = (-101.25, -98.5, -310.0)  # mm, LPS, (x, y, z)


def affine() -> np.ndarray:
    """Return the (4, 4) matrix from (x, y, z) indices to RAS+ mm."""
    lps = np.diag([*SPACING[::-1], 1.0])
    lps[:3, 3] = ORIGIN
    return RAS @ lps


def write_nifti(path: Path, hu: np.ndarray | None = None) -> Path:
    """Write .nii, .nii.gz, or .hdr with its .img."""
    hu = chest() if hu is None else hu
    kind = nib.Nifti1Pair if path.suffix in (".hdr", ".img") else nib.Nifti1Image
    kind(hu.T, affine()).to_filename(path)
    return path


def metaimage_header(**changes: str) -> str:
    """Return the text of a MetaImage header; a changed value of "" leaves the key out."""
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": " ".join(map(str, ORIGIN)),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": " ".join(map(str, SPACING[::-1])),
        "DimSize": " ".join(map(str, chest().shape[::-1])),
        "ElementType": "MET_SHORT",
        "ElementDataFile": "LOCAL",
    }
    last = changes.pop("ElementDataFile", "LOCAL")
    fields = {**fields, **changes}
    fields["ElementDataFile"] = fields.pop("ElementDataFile") and last
    return "".join(f"{key} = {value}\n" for key, value in fields.items() if value)


def write_metaimage(path: Path, compressed: bool = False, **changes: str) -> Path:
    """Write .mha, or .mhd with a file of voxels beside it."""
    voxels = chest().astype("<i2").tobytes()
    if compressed:
        voxels = zlib.compress(voxels, 2)
        changes = {"CompressedData": "True", "CompressedDataSize": str(len(voxels))} | changes
    if path.suffix == ".mha":
        path.write_bytes(metaimage_header(**changes).encode() + voxels)
    else:
        name = changes.setdefault(
            "ElementDataFile", path.stem + (".zraw" if compressed else ".raw")
        )
        path.write_text(metaimage_header(**changes))
        (path.parent / name).write_bytes(voxels)
    return path


def nrrd_header(**changes: str) -> str:
    """Return the text of an NRRD header; a changed value of "" leaves the field out."""
    x, y, z = SPACING[::-1]
    fields = {
        "type": "int16",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, chest().shape[::-1])),
        "space directions": f"({x},0,0) (0,{y},0) (0,0,{z})",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": f"({','.join(map(str, ORIGIN))})",
        **{key.replace("_", " "): value for key, value in changes.items()},
    }
    return "NRRD0004\n" + "".join(f"{k}: {v}\n" for k, v in fields.items() if v)


def write_nrrd(path: Path, encoding: str = "raw", **changes: str) -> Path:
    """Write .nrrd, or .nhdr with a file of voxels beside it."""
    voxels = chest().astype("<i2").tobytes()
    voxels = gzip.compress(voxels, 2, mtime=0) if encoding == "gzip" else voxels
    if path.suffix == ".nrrd":
        path.write_bytes((nrrd_header(encoding=encoding, **changes) + "\n").encode() + voxels)
    else:
        name = path.stem + (".raw.gz" if encoding == "gzip" else ".raw")
        path.write_text(nrrd_header(encoding=encoding, data_file=name, **changes))
        (path.parent / name).write_bytes(voxels)
    return path


def put_pixels(dataset: Dataset, values: np.ndarray, dtype: str = "<i2") -> None:
    dataset.PixelData = np.ascontiguousarray(values).astype(dtype).tobytes()
    dataset["PixelData"].VR = "OW"


def stored(index: int) -> np.ndarray:
    """Return (Y, X) int32, the values of a slice before its rescale."""
    return chest()[index].astype(np.int32) + 1024


def position(index: int, drift: float = 0.0) -> list[str]:
    x, y, z = ORIGIN
    return [f"{value:.4f}" for value in (x, y + drift * index, z + SPACING[0] * index)]


def image_dataset(sop_class: str, instance: str) -> Dataset:
    """Return a dataset with what every CT image has."""
    dataset, meta = Dataset(), FileMetaDataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID = sop_class
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.Modality, dataset.PatientID, dataset.PatientPosition = "CT", "P1", "HFS"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.1", SERIES_UID
    dataset.SeriesNumber, dataset.SeriesDescription = 3, "Chest 12.0 B30f"
    dataset.Rows = dataset.Columns = SIZE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    return dataset


def slice_dataset(index: int) -> Dataset:
    """Return one slice of the series as a dataset of its own."""
    dataset = image_dataset(CT_IMAGE, f"{SERIES_UID}.{index + 1}")
    dataset.InstanceNumber, dataset.AcquisitionNumber = index + 1, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
    dataset.PixelSpacing = [f"{SPACING[1]}", f"{SPACING[2]}"]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = position(index)
    put_pixels(dataset, stored(index))
    return dataset


def save_dataset(dataset: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a dataset as a DICOM file, its pixels as they are."""
    dataset.file_meta.TransferSyntaxUID = syntax
    dcmwrite(
        path,
        dataset,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )
    return path


def write_series(
    folder: Path,
    edit: Edit = lambda *_: None,
    name: Callable[[int], str] = lambda index: f"{index:03d}.dcm",
    syntax: str = ExplicitVRLittleEndian,
    slices: int = SLICES,
) -> Path:
    """Write a folder of slices, uncompressed."""
    for index in range(slices):
        dataset = slice_dataset(index)
        if syntax == ExplicitVRBigEndian:
            put_pixels(dataset, stored(index), ">i2")
        edit(dataset, index)
        path = folder / name(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_dataset(dataset, path, syntax)
    return folder


def write_compressed_series(folder: Path, syntax: int, slices: int = SLICES) -> Path:
    """Write a folder of slices, compressed by gdcm.

    Args:
        folder: is made.
        syntax: of gdcm.TransferSyntax.
        slices: how many.
    """
    for path in sorted(write_series(folder, slices=slices).iterdir()):
        transcode(path, path, syntax)
    return folder


def transcode(source: Path, target: Path, syntax: int) -> None:
    """Write a DICOM file in another transfer syntax."""
    reader, change, writer = (
        gdcm.ImageReader(),
        gdcm.ImageChangeTransferSyntax(),
        gdcm.ImageWriter(),
    )
    reader.SetFileName(str(source))
    if not reader.Read():
        raise RuntimeError(f"gdcm cannot read {source}")
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise RuntimeError(f"gdcm cannot transcode {source}")
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(target))
    if not writer.Write():
        raise RuntimeError(f"gdcm cannot write {target}")


def write_enhanced(path: Path, slices: int = SLICES) -> Path:
    """Write one multi-frame file of Enhanced CT."""
    dataset = image_dataset(EnhancedCTImageStorage, f"{SERIES_UID}.99")
    dataset.NumberOfFrames, dataset.InstanceNumber = slices, 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    put_pixels(dataset, np.stack([stored(index) for index in range(slices)]))
    dataset.SharedFunctionalGroupsSequence = Sequence([_shared_groups()])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(map(_frame_groups, range(slices)))
    return save_dataset(dataset, path)


def _shared_groups() -> Dataset:
    shared, measures, orientation, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [f"{SPACING[1]}", f"{SPACING[2]}"]
    measures.SliceThickness = f"{SPACING[0]}"
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = "1", "-1024", "HU"
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelValueTransformationSequence = Sequence([rescale])
    return shared


def _frame_groups(index: int) -> Dataset:
    frame, plane, content = Dataset(), Dataset(), Dataset()
    plane.ImagePositionPatient = position(index)
    content.StackID, content.InStackPositionNumber = "1", index + 1
    content.DimensionIndexValues = [1, index + 1]
    frame.PlanePositionSequence = Sequence([plane])
    frame.FrameContentSequence = Sequence([content])
    return frame


def write_zip(path: Path, folder: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Pack a folder's files into a zip archive with fixed times."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.iterdir()):
            info = zipfile.ZipInfo(f"study/{file.name}", (2020, 1, 1, 0, 0, 0))
            info.compress_type = compression
            archive.writestr(info, file.read_bytes())
    return path


def write_zipped_series(path: Path, slices: int = SLICES) -> Path:
    folder = write_series(path.with_suffix(""), slices=slices)
    write_zip(path, folder)
    shutil.rmtree(folder)
    return path


def set_nifti_field(path: Path, offset: int, form: str, *values: float) -> Path:
    """Overwrite bytes of a .nii file's header."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, offset, *values)
    path.write_bytes(content)
    return path


DEFLATED = DeflatedExplicitVRLittleEndian


def check_as_written(path: Path) -> None:
    scan = format_of(path).read(path)
    assert np.array_equal(scan.hu.T, chest())
    assert np.allclose(scan.affine, affine())


def fault_of(path: Path) -> str:
    with pytest.raises(UnusableScan) as caught:
        format_of(path).read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def is_same_or_refused(path: Path, name: str) -> bool:
    try:
        return np.array_equal(format_of(path).read(path).hu.T, chest())
    except UnusableScan as error:
        return name in str(error)


def check_flipped_bits(path: Path, voxels: Path, offsets: list[int]) -> None:
    """Flip a bit of the file of voxels at these offsets, and at random ones."""
    content, rng = voxels.read_bytes(), random.Random(0)
    for offset in [*offsets, *rng.choices(range(len(content)), k=296)]:
        damaged = bytearray(content)
        damaged[offset] ^= 1 << rng.randrange(8)
        voxels.write_bytes(damaged)
        assert is_same_or_refused(path, f"{path.name} (voxels in {voxels.name!r}): "), offset
