"""Full-size scans in several formats, converted once from a .nii.gz of 512 x 512 and cached."""

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

from multi_abnormality.data.io.reader_registry import scan_name
from speed.phantom import CACHE

SIZE = 512
SPACING = (0.7, 0.7, 1.25)  # mm


def _planes(source: Path, slices: int) -> np.ndarray:
    """Return (slices, 512, 512) int16 HU of a .nii.gz, repeated up and down as needed."""
    hu = np.asarray(nib.load(source).dataobj, np.int16).T
    turn = np.concatenate([np.arange(len(hu)), np.arange(len(hu) - 2, 0, -1)])
    return hu[np.resize(turn, slices)]


def _cached(kind: str, source: Path, slices: int, suffix: str = "") -> Path:
    return CACHE / f"{kind}_{slices}_of_{scan_name(source)}{suffix}"


def _once(path: Path, write: Callable[[Path], None]) -> Path:
    if not path.exists():
        part = path.with_name(f"part_{path.name}")
        shutil.rmtree(part, ignore_errors=True)
        path.parent.mkdir(exist_ok=True)
        write(part)
        part.rename(path)
    return path


def dicom_series(source: Path, slices: int) -> Path:
    """Return a directory of uncompressed slices."""

    def write(folder: Path) -> None:
        folder.mkdir()
        for index, plane in enumerate(_planes(source, slices)):
            _write_slice(folder / f"{index:04d}.dcm", index, plane)

    return _once(_cached("dicom", source, slices), write)


def jpeg_lossless_series(source: Path, slices: int) -> Path:
    """Return a directory of JPEG Lossless slices, the most common compression in archives."""

    def write(folder: Path) -> None:
        folder.mkdir()
        for path in dicom_series(source, slices).iterdir():
            _transcode(path, folder / path.name)

    return _once(_cached("dicom_jpeg_lossless", source, slices), write)


def nifti(source: Path, slices: int) -> Path:
    """Return a .nii.gz of the fastest compression level."""

    def write(path: Path) -> None:
        header = nib.Nifti1Header()
        header.set_data_dtype(np.int16)
        header.set_data_shape((SIZE, SIZE, slices))
        header.set_sform(np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1]), 1)
        header.set_zooms(SPACING)
        header["vox_offset"], header["magic"] = 352, b"n+1"
        planes = _planes(source, min(slices, 400))
        with igzip.open(path, "wb", compresslevel=1) as file:
            file.write(header.binaryblock + bytes(4))
            for index in range(slices):
                file.write(planes[index % len(planes)].astype("<i2").tobytes())

    return _once(_cached("scan", source, slices, ".nii.gz"), write)


def metaimage(source: Path, slices: int) -> Path:
    """Return a .mha with one zlib stream, the default of most programs."""

    def write(path: Path) -> None:
        voxels = zlib.compress(_planes(source, slices).astype("<i2").tobytes(), 1)
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

    return _once(_cached("scan", source, slices, ".mha"), write)


def nrrd(source: Path, slices: int) -> Path:
    """Return a .nrrd with gzip encoding."""

    def write(path: Path) -> None:
        x, y, z = SPACING
        text = (
            "NRRD0004\ntype: int16\ndimension: 3\nspace: left-posterior-superior\n"
            f"sizes: {SIZE} {SIZE} {slices}\nspace directions: ({x},0,0) (0,{y},0) (0,0,{z})\n"
            "kinds: domain domain domain\nendian: little\nencoding: gzip\n"
            "space origin: (-180,-180,-300)\n\n"
        )
        voxels = gzip.compress(_planes(source, slices).astype("<i2").tobytes(), 1)
        path.write_bytes(text.encode() + voxels)

    return _once(_cached("scan", source, slices, ".nrrd"), write)


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
