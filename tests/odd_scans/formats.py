"""Variants that the standards of file formats allow."""

import gzip
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np

import chest_files as files
from chest_files import (
    SIZE,
    SLICES,
    affine,
    chest,
    write_metaimage,
    write_nifti,
    write_nrrd,
    write_series,
)
from odd_scans.case import Write, equal, nifti, refuse


# Rounding is accepted, and everything that the standards allow.
def in_place(*fields: tuple[int, str, tuple[float, ...]], qform: bool = False) -> Write:
    def odd(folder: Path) -> Path:
        path = nifti(None if qform else affine(), affine() if qform else None)(folder)
        for offset, form, numbers in fields:
            files.set_nifti_field(path, offset, form, *numbers)
        return path

    return odd


def nifti2(folder: Path) -> Path:
    """A file of a program that holds the quaternion in float32."""
    image = nib.Nifti2Image(chest().T, affine())
    image.set_sform(None, 0)
    image.set_qform(affine(), 1)
    image.to_filename(folder / "odd.nii")
    return files.set_nifti_field(folder / "odd.nii", 352, "<3d", 0, 0, np.float32(1.0000003))


def trailing(content: bytes) -> Write:
    def odd(folder: Path) -> Path:
        path = write_nifti(folder / "odd.nii.gz")
        path.write_bytes(path.read_bytes() + content)
        return path

    return odd


NO_FORMS = ((76, "<8f", (1,) * 8), (252, "<2h", (0, 0)))
refuse("NIfTI without sform, qform and spacing", "1 mm|default|blank", in_place(*NO_FORMS))
equal("quaternion just over one", in_place((256, "<3f", (0, 0, 1.0000005)), qform=True))
equal("NIfTI-2 from float32", nifti2)
equal("dim[4] is 0", in_place((40, "<8h", (4, SIZE, SIZE, SLICES, 0, 0, 0, 0))))
equal("vox_offset is 0", in_place((108, "<f", (0,))))
equal("zeros after gzip", trailing(bytes(512)))
equal("bytes after gzip", trailing(b"signature\n"))
equal("empty member after gzip", trailing(gzip.compress(b"")))


# Formats, and names of files that a header gives.
equal(
    "voxels in a file of any name",
    lambda f: write_metaimage(f / "odd.mhd", ElementDataFile="any name.bin"),
)
equal("big-endian MetaImage", lambda f: big_endian(f / "odd.mha"))
equal(".hdr", lambda f: write_nifti(f / "odd.hdr"))
equal(".img", lambda f: write_nifti(f / "odd.hdr").with_suffix(".img"))
equal(".nrrd", lambda f: write_nrrd(f / "odd.nrrd"))
equal(".nrrd, gzip", lambda f: write_nrrd(f / "odd.nrrd", "gzip"))
equal(".nhdr", lambda f: write_nrrd(f / "odd.nhdr"))
equal(".nhdr, gzip", lambda f: write_nrrd(f / "odd.nhdr", "gzip"))
equal("enhanced", lambda f: files.write_enhanced(f / "odd.dcm"))
equal("zipped series", lambda f: files.write_zipped_series(f / "odd.zip"))
equal(
    "zipped series, stored",
    lambda f: files.write_zip(f / "odd.zip", write_series(f / "a"), zipfile.ZIP_STORED),
)
equal("one file of a series", lambda f: write_series(f / "odd") / "005.dcm")
SYNTAX = files.gdcm.TransferSyntax
for _syntax in (
    SYNTAX.RLELossless, SYNTAX.JPEGLosslessProcess14_1, SYNTAX.JPEGLSLossless,
    SYNTAX.JPEG2000Lossless,
):  # fmt: skip
    equal(
        SYNTAX.GetTSString(_syntax),
        lambda f, syntax=_syntax: files.write_compressed_series(f / "odd", syntax),
    )
refuse("MetaImage LIST", "LIST", lambda f: write_metaimage(f / "odd.mhd", ElementDataFile="LIST"))
refuse(
    "MetaImage pattern",
    "pattern|%",
    lambda f: write_metaimage(f / "odd.mhd", ElementDataFile="s%03d.raw 1 9 1"),
)
refuse(
    "MetaImage ASCII",
    "ASCII|BinaryData",
    lambda f: write_metaimage(f / "odd.mha", BinaryData="False"),
)
refuse(
    "MetaImage of channels",
    "channel|ElementNumberOfChannels",
    lambda f: write_metaimage(f / "odd.mha", ElementNumberOfChannels="3"),
)


def big_endian(path: Path) -> Path:
    header = files.metaimage_header(BinaryDataByteOrderMSB="True")
    path.write_bytes(header.encode() + chest().astype(">i2").tobytes())
    return path
