"""A well-formed file or folder of each format, and where its voxels lie."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import gdcm
import numpy as np
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

import chest_files as files
from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.data.storage.shards import Provenance, ShardEntry, encode, pack, shard_path

PIXEL_DATA = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")  # little and big endian
ORIGIN = [field.name for field in fields(Provenance)]
FEW = 12  # slices of a compressed series: decoded without starting processes
MEMBER = "train_1_a_1"
METADATA = (
    "VolumeName,Manufacturer,ManufacturerModelName,ConvolutionKernel,PatientSex,PatientAge,"
    "RescaleSlope,RescaleIntercept,XYSpacing,ZSpacing,ImageOrientationPatient,PatientPosition\n"
    "train_1_a_1.nii.gz,Maker,Model,B30f,F,061Y,1,-1024,"
    '"[0.68, 0.68]",1.5,"[1, 0, 0, 0, 1, 0]",HFS\n'
    "train_2_a_1.nii.gz,Maker,Model,B30f,M,055Y,1,-1024,"
    '"[0.7, 0.7]",1.5,"[1, 0, 0, 0, 1, 0]",FFS\n'
)


@dataclass(frozen=True)
class Format:
    """How a format is written and changed.

    Attributes:
        write: makes the well-formed original in an empty folder, and returns the path to read.
        kind: what reads it: scan | set | label table | metadata table | own table.
        header: how header values are changed: text | nifti | dicom | table | none.
        checksum: whether one covers the voxels.
        bounded: whether stored bytes that are missing must be noticed.
        bomb: how a decompression bomb is made of it: gzip | zlib | deflate | zip | zstd | "".
    """

    write: Callable[[Path], Path]
    kind: str = "scan"
    header: str = "none"
    checksum: bool = False
    bounded: bool = True
    bomb: str = ""


def _series(syntax: str) -> Callable[[Path], Path]:
    return lambda folder: files.write_series(folder / "series", syntax=syntax)


def _compressed(syntax: int, slices: int = FEW) -> Callable[[Path], Path]:
    return lambda folder: files.write_compressed_series(folder / "series", syntax, slices)


def _write_set(folder: Path) -> Path:
    """A processed set of one volume."""
    codes = ((files.chest().clip(-1024, 1023) + 1024) // 8).astype(np.uint8)
    origin = replace(
        Provenance(*[f"{name} of it" for name in ORIGIN]),
        voxels_sha256=hashlib.sha256(codes.tobytes()).hexdigest(),
    )
    shard = folder / shard_path(MEMBER)
    shard.parent.mkdir(parents=True)
    shard.write_bytes(pack({MEMBER: ShardEntry(origin, encode(codes))}))
    about = {"format": 3, "preprocess": {"shape": codes.shape}}
    (folder / "recipe.json").write_text(json.dumps(about))
    row = [MEMBER, "stored", *asdict(origin).values()]
    table = [",".join(["name", "status", *ORIGIN]), ",".join(row)]
    (folder / "manifest.csv").write_text("\n".join(table) + "\n")
    (folder / "labels.csv").write_text(f"name,Emphysema\n{MEMBER},1\n")
    return folder


def _write_labels(folder: Path) -> Path:
    rows = [f"train_{n}_a_1.nii.gz," + ",".join("01"[n % 2] for _ in FINDINGS) for n in (1, 2, 3)]
    path = folder / "train_predicted_labels.csv"
    path.write_text("\n".join([",".join(["VolumeName", *FINDINGS]), *rows]) + "\n")
    return path


def _write_metadata(folder: Path) -> Path:
    path = folder / "dataset/metadata/train_metadata.csv"
    path.parent.mkdir(parents=True)
    path.write_text(METADATA)
    return path


def _write_own(folder: Path) -> Path:
    path = folder / "labels.csv"
    path.write_text("scan,patient,split,Emphysema\na.nii.gz,17,train,1\nb.nii.gz,18,test,0\n")
    return path


def _enhanced(folder: Path) -> Path:
    return files.write_enhanced(folder / "enhanced.dcm")


SYNTAX = gdcm.TransferSyntax
FORMATS: dict[str, Format] = {
    ".nii": Format(lambda f: files.write_nifti(f / "scan.nii"), header="nifti"),
    ".nii.gz": Format(
        lambda f: files.write_nifti(f / "scan.nii.gz"), header="nifti", checksum=True, bomb="gzip"
    ),
    ".hdr .img": Format(lambda f: files.write_nifti(f / "scan.hdr"), header="nifti"),
    ".mha": Format(lambda f: files.write_metaimage(f / "scan.mha"), header="text"),
    ".mha zlib": Format(
        lambda f: files.write_metaimage(f / "scan.mha", compressed=True),
        header="text",
        checksum=True,
        bomb="zlib",
    ),
    ".mhd .raw": Format(lambda f: files.write_metaimage(f / "scan.mhd"), header="text"),
    ".mhd .zraw": Format(
        lambda f: files.write_metaimage(f / "scan.mhd", compressed=True),
        header="text",
        checksum=True,
        bomb="zlib",
    ),
    ".nrrd": Format(lambda f: files.write_nrrd(f / "scan.nrrd"), header="text"),
    ".nrrd gzip": Format(
        lambda f: files.write_nrrd(f / "scan.nrrd", "gzip"),
        header="text",
        checksum=True,
        bomb="gzip",
    ),
    ".nhdr .raw": Format(lambda f: files.write_nrrd(f / "scan.nhdr"), header="text"),
    ".nhdr .raw.gz": Format(
        lambda f: files.write_nrrd(f / "scan.nhdr", "gzip"),
        header="text",
        checksum=True,
        bomb="gzip",
    ),
    "DICOM explicit": Format(_series(ExplicitVRLittleEndian), header="dicom"),
    "DICOM implicit": Format(_series(ImplicitVRLittleEndian), header="dicom"),
    "DICOM big endian": Format(_series(ExplicitVRBigEndian), header="dicom"),
    "DICOM deflated": Format(_series(DeflatedExplicitVRLittleEndian), bomb="deflate"),
    "DICOM RLE": Format(_compressed(SYNTAX.RLELossless), header="dicom", bounded=False),
    "DICOM JPEG": Format(_compressed(SYNTAX.JPEGLosslessProcess14_1), header="dicom"),
    "DICOM JPEG, many": Format(
        _compressed(SYNTAX.JPEGLosslessProcess14_1, files.SLICES), header="dicom"
    ),
    "DICOM JPEG-LS": Format(_compressed(SYNTAX.JPEGLSLossless), header="dicom"),
    "DICOM JPEG 2000": Format(_compressed(SYNTAX.JPEG2000Lossless), header="dicom"),
    "DICOM enhanced": Format(_enhanced, header="dicom"),
    "DICOM zip": Format(
        lambda f: files.write_zipped_series(f / "series.zip", FEW), checksum=True, bomb="zip"
    ),
    "processed set": Format(_write_set, kind="set", header="table", checksum=True, bomb="zstd"),
    "label table": Format(_write_labels, kind="label table", header="table"),
    "metadata table": Format(_write_metadata, kind="metadata table", header="table"),
    "own table": Format(_write_own, kind="own table", header="table"),
}


def voxel_spans(path: Path) -> list[range]:
    """Where in a file voxels lie, as they are stored; empty where it has a header alone."""
    content = path.read_bytes()
    suffix = path.suffix
    if suffix in (".gz", ".img", ".raw", ".zraw"):
        return [range(len(content))]
    if suffix == ".zip":
        return _member_spans(path)
    if suffix == ".dcm":
        starts = [content.rfind(tag) + 12 for tag in PIXEL_DATA if tag in content]
    else:
        ends = {".nii": b"n+1\0", ".mha": b"LOCAL\n", ".nrrd": b"\n\n"}
        end = ends.get(suffix)
        starts = [content.index(end) + len(end)] if end else []
    return [range(start, len(content)) for start in starts[:1]]


def _member_spans(path: Path) -> list[range]:
    with zipfile.ZipFile(path) as archive:
        starts = [(info, info.header_offset + 30 + len(info.filename)) for info in archive.filelist]
    return [range(start, start + info.compress_size) for info, start in starts]
