"""Reader of NIfTI files: a strictly validated header, and voxels read as a stream.

The header is parsed here: importing nibabel takes longer than reading a scan, and its checks turn a
spacing of 0 into 1 mm.
"""

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from multi_abnormality.data.io.byte_streams import ByteStream, open_regular_file
from multi_abnormality.data.io.geometry import axis_codes, is_default_geometry
from multi_abnormality.data.io.hu_conversion import to_hounsfield
from multi_abnormality.data.io.scan import SYNTHETIC, Scan, check_shape
from multi_abnormality.data.io.series_metadata import Series
from multi_abnormality.utils.errors import UnusableScan, naming

# Type and offset of the fields that are used (https://nifti.nimh.nih.gov), for both versions.
_NIFTI1 = {
    "dim": ("8i2", 40),
    "datatype": ("i2", 70),
    "pixdim": ("8f4", 76),
    "vox_offset": ("f4", 108),
    "scl_slope": ("f4", 112),
    "scl_inter": ("f4", 116),
    "xyzt_units": ("u1", 123),
    "descrip": ("S80", 148),
    "qform_code": ("i2", 252),
    "sform_code": ("i2", 254),
    "quatern": ("3f4", 256),
    "qoffset": ("3f4", 268),
    "srow": ("(3,4)f4", 280),
    "magic": ("S4", 344),
}
_NIFTI2 = {
    "magic": ("S4", 4),
    "datatype": ("i2", 12),
    "dim": ("8i8", 16),
    "pixdim": ("8f8", 104),
    "vox_offset": ("i8", 168),
    "scl_slope": ("f8", 176),
    "scl_inter": ("f8", 184),
    "qform_code": ("i4", 344),
    "sform_code": ("i4", 348),
    "quatern": ("3f8", 352),
    "qoffset": ("3f8", 376),
    "descrip": ("S80", 240),
    "srow": ("(3,4)f8", 400),
    "xyzt_units": ("i4", 500),
}


def _header_dtype(size: int, fields: dict[str, tuple[str, int]]) -> np.dtype:
    spec: Any = {
        "names": list(fields),
        "formats": [np.dtype(form).newbyteorder("<") for form, _ in fields.values()],
        "offsets": [offset for _, offset in fields.values()],
        "itemsize": size,
    }
    dtype: np.dtype = np.dtype(spec)
    return dtype


_HEADERS = {348: _header_dtype(348, _NIFTI1), 540: _header_dtype(540, _NIFTI2)}  # by their size
_DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8",
    256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_OTHER_TYPES = {
    0: "unknown", 1: "binary", 32: "complex64", 128: "RGB", 1536: "float128", 1792: "complex128",
    2048: "complex256", 2304: "RGBA",
}  # fmt: skip
PHANTOM = b"chest CT phantom"  # descrip of the files that chest_phantom writes
MAX_OFFSET = 1 << 28  # bytes before the voxels: enough for any header extension
MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # metres and microns in xyzt_units; all others are mm
# Excess of b² + c² + d² of the quaternion over 1 that float32 rounding can explain.
QUATERNION_TOLERANCE = 1e-3
SPACING_TOLERANCE = 0.01  # relative, between the fields of a header


def read(path: Path, metadata: Series | None = None) -> Scan:
    """Read a scan with its header or, if that is blank, with the metadata table.

    Args:
        path: .nii, .nii.gz, or either file of a pair of .hdr and .img.
        metadata: row of CT-RATE's metadata table.
    """
    with ExitStack() as stack:
        if path.suffix.lower() not in (".hdr", ".img"):
            stream = _open(path, stack)
            header = _header(stream, magic=b"n+")
            stream.skip(_voxel_offset(header) - header.itemsize)
            return _read_voxels(header, stream, metadata)
        header_path, image_path = _pair_of(path)
        with naming(header_path):
            header = _header(_open(header_path, stack), magic=b"ni")
            offset = _integer(header["vox_offset"])
        stream = _open(image_path, stack)
        stream.skip(offset)
        return _read_voxels(header, stream, metadata)


def data_file(path: Path) -> Path | None:
    """Return the other file of a pair of .hdr and .img, if it exists."""
    if path.suffix.lower() not in (".hdr", ".img"):
        return None
    (other,) = {*_pair_of(path)} - {path}
    return other if other.is_file() else None


def _pair_of(path: Path) -> tuple[Path, Path]:
    """Return the .hdr and the .img file of a pair, given either."""
    other = ".img" if path.suffix.lower() == ".hdr" else ".hdr"
    names = [path.with_suffix(one) for one in (other, other.upper())]
    if path.suffix.isupper():
        names.reverse()
    partner = next((one for one in names if one.exists()), names[0])
    return (partner, path) if other == ".hdr" else (path, partner)


def _open(path: Path, stack: ExitStack) -> ByteStream:
    file = stack.enter_context(open_regular_file(path))
    is_gzip = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if is_gzip != path.name.lower().endswith(".gz"):
        raise UnusableScan(
            f"{'is' if is_gzip else 'is not'} gzip-compressed, which its name denies "
            "(a text file, a Git LFS pointer, or renamed?); fetch it again or rename it",
            "damaged",
            path,
        )
    return ByteStream(file, path, "gzip" if is_gzip else "raw")


def _read_voxels(header: np.void, stream: ByteStream, metadata: Series | None) -> Scan:
    shape, dtype = _shape(header), _dtype(header)
    stream.check_holds(math.prod(shape) * dtype.itemsize)
    affine = _affine(header)
    if affine is not None and not _is_blank(affine, shape, metadata):
        release, rescale = "v2", _rescale(header)
    elif metadata is not None:
        release, affine, rescale = "v1", metadata.affine(), metadata.rescale()
    else:
        raise UnusableScan(
            "its header gives no orientation (sform_code and qform_code are 0, or "
            "it has just 1 mm along each axis, from zero or for a scan too small for that), so "
            "spacing, left and right are unknown; convert the scan again from its source, or, for "
            "CT-RATE's first release (v1), bring its row of the metadata table to data/",
            "geometry",
        )
    hu, notes = to_hounsfield(
        stream.planes(shape, dtype),
        shape[::-1],  # NIfTI's first axis is the fastest
        dtype.kind in "iu",
        *rescale,
    )
    if header["descrip"].item().rstrip(b" ") == PHANTOM:
        notes = (*notes, SYNTHETIC)
    return Scan(hu.T, affine, notes, release)


def _is_blank(affine: np.ndarray, shape: tuple[int, int, int], metadata: Series | None) -> bool:
    """Return whether the affine is a program's default, and not the scanner's."""
    if metadata is None:
        return is_default_geometry(affine, shape)
    is_1_mm = np.array_equal(np.abs(affine[:3, :3]), np.eye(3))
    return is_1_mm and metadata.spacing != (1.0, 1.0, 1.0)


def _rescale(header: np.void) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):  # not set
        return 1.0, 0.0
    if not math.isfinite(intercept):
        raise UnusableScan(
            f"has no valid rescale (scl_inter is {intercept}); convert the scan again",
            "not HU",
        )
    return slope, intercept


def _header(stream: ByteStream, magic: bytes) -> np.void:
    """Parse the header, of either version and byte order; the stream is then after it."""
    size_field = stream.read(4)
    little, big = int.from_bytes(size_field, "little"), int.from_bytes(size_field, "big")
    if little in _HEADERS:
        dtype = _HEADERS[little]
    elif big in _HEADERS:
        dtype = _HEADERS[big].newbyteorder(">")
    else:
        raise UnusableScan("is not a NIfTI file; fetch it again", "damaged")
    block = size_field + stream.read(dtype.itemsize - 4)
    header: np.void = np.frombuffer(block, dtype)[0]
    _check_magic(header, magic)
    return header


def _check_magic(header: np.void, magic: bytes) -> None:
    found = header["magic"].item()
    if found.startswith(magic):
        return
    if found.startswith(b"ni"):
        raise UnusableScan(
            "has its voxels in another file; name it .hdr, or convert both to .nii.gz",
            "damaged",
        )
    if magic == b"ni" and not found.startswith(b"n+"):
        raise UnusableScan(
            "is an ANALYZE 7.5 file: the format has no orientation, so left and "
            "right are unknown; convert the scan again from its source",
            "geometry",
        )
    raise UnusableScan("is not a NIfTI file of this kind; fetch it again", "damaged")


def _voxel_offset(header: np.void) -> int:
    """Return the offset of the voxels. Some programs write 0 for the first possible offset."""
    size = header.itemsize
    return _integer(header["vox_offset"], least=size) or size + 4


def _integer(field: np.ndarray, least: int = 0) -> int:
    offset = float(field)
    if offset != 0 and not least <= offset <= MAX_OFFSET:  # also if NaN
        raise UnusableScan(
            f"has no valid start of the voxels ({offset:g}); fetch it again", "damaged"
        )
    return int(offset)


def _shape(header: np.void) -> tuple[int, int, int]:
    count = min(max(int(header["dim"][0]), 0), 7)
    shape = [int(length) for length in header["dim"][1 : 1 + count]]
    shape[3:] = [length or 1 for length in shape[3:]]  # 0 means that the axis does not exist
    return check_shape(shape)


def _dtype(header: np.void) -> np.dtype:
    code = int(header["datatype"])
    if code in _DTYPES:
        is_big = header.dtype["datatype"].byteorder == ">"
        return np.dtype(_DTYPES[code]).newbyteorder(">" if is_big else "<")
    name = _OTHER_TYPES.get(code)
    what = f"holds {name} voxels, not plain numbers" if name else f"has unknown data type {code}"
    raise UnusableScan(f"{what}; convert it to int16 HU", "not HU")


def _affine(header: np.void) -> np.ndarray | None:
    """Return the (4, 4) affine in mm, or None. All fields that define it must agree."""
    pixdim = np.abs(header["pixdim"][1:4].astype(np.float64))
    if not (np.isfinite(pixdim).all() and pixdim.all()):
        raise UnusableScan(
            f"its header gives the spacing {header['pixdim'][1:4].tolist()} mm; "
            "set the true one (pixdim) or convert the scan again",
            "geometry",
        )
    sform = _with_last_row(header["srow"]) if header["sform_code"] > 0 else None
    qform = _qform(header, pixdim) if header["qform_code"] > 0 else None
    affine = qform if sform is None else sform
    if affine is None:
        return None
    if not np.isfinite(affine).all():
        raise UnusableScan("its affine holds NaN; convert the scan again", "geometry")
    if sform is not None:
        _refuse_contradiction(sform, pixdim, "pixdim")
        if qform is not None:
            _refuse_contradiction(sform, qform, "qform")
    factor = MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    return np.asarray(np.diag([factor, factor, factor, 1.0]) @ affine)


def _qform(header: np.void, pixdim: np.ndarray) -> np.ndarray:
    """Return the affine of the quaternion, whose norm may exceed 1 by rounding."""
    quaternion = header["quatern"].astype(np.float64)
    square = float(quaternion @ quaternion)
    if not square <= 1 + QUATERNION_TOLERANCE:  # also if NaN
        raise UnusableScan(
            f"has no valid affine: the square of its quaternion is {square:g}, more than "
            "1; convert the scan again",
            "geometry",
        )
    b, c, d = quaternion / max(1.0, math.sqrt(square))
    a = math.sqrt(max(0.0, 1 - square))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    handedness = -1.0 if header["pixdim"][0] < 0 else 1.0
    columns = rotation * (*pixdim[:2], handedness * pixdim[2])
    return _with_last_row(np.column_stack([columns, header["qoffset"]]))


def _with_last_row(rows: np.ndarray) -> np.ndarray:
    return np.vstack([rows.astype(np.float64), [0, 0, 0, 1]])


def _refuse_contradiction(sform: np.ndarray, other: np.ndarray, name: str) -> None:
    """Compare the spacing, and the directions if present, of two fields of the header.

    For sheared slices, a field may hold the distance along the slant or that between the planes.
    """
    columns = sform[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    theirs = other if other.ndim == 1 else np.linalg.norm(other[:3, :3], axis=0)
    heights = 1 / np.maximum(np.linalg.norm(np.linalg.pinv(columns), axis=1), 1e-12)
    close = [np.isclose(one, theirs, rtol=SPACING_TOLERANCE, atol=0) for one in (spacing, heights)]
    if not np.all(close[0] | close[1]):
        raise UnusableScan(
            f"its header contradicts itself: sform gives a spacing of "
            f"{spacing.round(4).tolist()} mm, {name} {theirs.round(4).tolist()}; keep the true "
            "one, or convert the scan again from its source",
            "geometry",
        )
    if other.ndim == 2 and (axes := axis_codes(columns)) != axis_codes(other[:3, :3]):
        raise UnusableScan(
            f"its header contradicts itself: by sform its axes point to {axes}, by {name} "
            f"to {axis_codes(other[:3, :3])}, so left and right are unknown; keep the true one, "
            "or convert the scan again from its source",
            "geometry",
        )
