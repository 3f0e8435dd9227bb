"""Full-size scans in several formats, written once and kept."""

import gzip
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import gdcm
import nibabel as nib
import numpy as np
from isal import igzip
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from speed.phantom import CACHE, draw_phantom

REAL_SCAN = (
    Path(__file__).resolve().parents[3] / "shared/real-ct/chest_LIDC-IDRI-0001_2.5mm_int16.nii.gz"
)
SIZE = 512
SPACING = (0.7, 0.7, 1.25)  # mm


def _planes(slices: int) -> np.ndarray:
    """(slices, 512, 512) int16 HU: a chest, up and down again as often as it takes."""
    path = REAL_SCAN if REAL_SCAN.exists() else draw_phantom(SIZE, 300)
    hu = np.asarray(nib.load(path).dataobj, np.int16).T
    turn = np.concatenate([np.arange(len(hu)), np.arange(len(hu) - 2, 0, -1)])
    return hu[np.resize(turn, slices)]


def _once(path: Path, write: Callable[[Path], None]) -> Path:
    if not path.exists():
        part = path.with_name(f"part_{path.name}")
        shutil.rmtree(part, ignore_errors=True)
        CACHE.mkdir(exist_ok=True)
        write(part)
        part.rename(path)
    return path


def dicom_series(slices: int) -> Path:
    """A folder of uncompressed slices."""

    def write(folder: Path) -> None:
        folder.mkdir()
        for index, plane in enumerate(_planes(slices)):
            _write_slice(folder / f"{index:04d}.dcm", index, plane)

    return _once(CACHE / f"dicom_{slices}", write)


def jpeg_lossless_series(slices: int) -> Path:
    """A folder of slices as JPEG Lossless, the commonest compression of archives."""

    def write(folder: Path) -> None:
        folder.mkdir()
        for path in dicom_series(slices).iterdir():
            _transcode(path, folder / path.name)

    return _once(CACHE / f"dicom_jpeg_lossless_{slices}", write)


def nifti(slices: int) -> Path:
    """A .nii.gz, packed as quickly as possible."""

    def write(path: Path) -> None:
        header = nib.Nifti1Header()
        header.set_data_dtype(np.int16)
        header.set_data_shape((SIZE, SIZE, slices))
        header.set_sform(np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1]), 1)
        header.set_zooms(SPACING)
        header["vox_offset"], header["magic"] = 352, b"n+1"
        planes = _planes(min(slices, 400))
        with igzip.open(path, "wb", compresslevel=1) as file:
            file.write(header.binaryblock + bytes(4))
            for index in range(slices):
                file.write(planes[index % len(planes)].astype("<i2").tobytes())

    return _once(CACHE / f"scan_{slices}.nii.gz", write)


def metaimage(slices: int) -> Path:
    """A .mha as programs write it by default: one zlib stream."""

    def write(path: Path) -> None:
        voxels = zlib.compress(_planes(slices).astype("<i2").tobytes(), 1)
        header = {
            "ObjectType": "Image",
            "NDims": 3,
            "BinaryData": "True",
            "BinaryDataByteOrderMSB": "False",
            "CompressedData": "True",
            "CompressedDataSize": len(voxels),
            "TransformMatrix": "1 0 0 0 1 0 0 0 1",
            "Offset": "-180 -180 -300",
            "ElementSpacing": " ".join(map(str, SPACING)),
            "DimSize": f"{SIZE} {SIZE} {slices}",
            "ElementType": "MET_SHORT",
            "ElementDataFile": "LOCAL",
        }
        text = "".join(f"{key} = {value}\n" for key, value in header.items())
        path.write_bytes(text.encode() + voxels)

    return _once(CACHE / f"scan_{slices}.mha", write)


def nrrd(slices: int) -> Path:
    """A .nrrd, packed by gzip."""

    def write(path: Path) -> None:
        x, y, z = SPACING
        text = (
            "NRRD0004\ntype: int16\ndimension: 3\nspace: left-posterior-superior\n"
            f"sizes: {SIZE} {SIZE} {slices}\nspace directions: ({x},0,0) (0,{y},0) (0,0,{z})\n"
            "kinds: domain domain domain\nendian: little\nencoding: gzip\n"
            "space origin: (-180,-180,-300)\n\n"
        )
        voxels = gzip.compress(_planes(slices).astype("<i2").tobytes(), 1)
        path.write_bytes(text.encode() + voxels)

    return _once(CACHE / f"scan_{slices}.nrrd", write)


def _write_slice(path: Path, index: int, plane: np.ndarray) -> None:
    dataset, meta = Dataset(), FileMetaDataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{index + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.Modality, dataset.SeriesInstanceUID, dataset.PatientID = "CT", "1.2.3.9", "1"
    dataset.InstanceNumber, dataset.PatientPosition = index + 1, "HFS"
    dataset.Rows = dataset.Columns = SIZE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
    dataset.PixelSpacing = [str(SPACING[1]), str(SPACING[0])]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = ["-180", "-180", f"{index * SPACING[2]:.2f}"]
    dataset.PixelData = (plane.astype(np.int32) + 1024).astype("<i2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)


def _transcode(source: Path, target: Path) -> None:
    reader, change, writer = (
        gdcm.ImageReader(),
        gdcm.ImageChangeTransferSyntax(),
        gdcm.ImageWriter(),
    )
    reader.SetFileName(str(source))
    done = reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    done = done and change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(target))
    if not (done and writer.Write()):
        raise RuntimeError(f"gdcm cannot compress {source}")
