"""Reader of MetaImage files: .mha, and .mhd with a separate file of voxels.

The format is MetaIO's, as read by ITK. Where MetaIO fills in missing fields, such as a spacing of
1 mm, the scan is refused.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from multi_abnormality.data.io.byte_streams import ByteStream, Encoding, open_regular_file
from multi_abnormality.data.io.scan import Scan, check_shape
from multi_abnormality.data.io.series_metadata import Series
from multi_abnormality.data.io.text_headers import (
    SPACING_TOLERANCE,
    TextHeader,
    affine_of,
    byte_count,
    quoted,
    read_lines,
    read_voxels,
    seek_from_end,
    wrong_file,
    wrong_line,
)

DTYPES = {  # long has 4 bytes on every platform
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# Synonyms in different releases of MetaIO. AnatomicalOrientation is not used: many programs write a
# constant.
MATRIX_KEYS = ("TransformMatrix", "Rotation", "Orientation", "ElementDirection")
ORIGIN_KEYS = ("Offset", "Position", "Origin", "ImagePosition", "ElementOrigin")
BYTE_ORDER_KEYS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
MAX_DIMENSIONS = 10
LPS = (-1.0, -1.0, 1.0)


def read(path: Path, _metadata: Series | None = None) -> Scan:
    """Read a scan by its header."""
    with ExitStack() as stack:
        file = stack.enter_context(open_regular_file(path))
        header = _read_header(file, path)
        _refuse_unsupported(header)
        shape, dtype, affine = _shape(header), _dtype(header), _affine(header)
        voxels = _data_file(header)
        if voxels is not None:
            file = stack.enter_context(open_regular_file(voxels))
        is_compressed = _flag(header, "CompressedData")
        _skip_header(header, file, byte_count(shape, dtype), is_compressed)
        size = header.integer("CompressedDataSize", 0) if is_compressed else 0
        if size < 0:
            raise header.refuse(f"has CompressedDataSize {size}", "damaged")
        encoding = _compression(file) if is_compressed else "raw"
        stream = ByteStream(file, header.stream_name(voxels), encoding, size or None)
        return read_voxels(header, shape, dtype, affine, stream)


def data_file(path: Path) -> Path | None:
    """Return the separate file of voxels; None if they follow the header."""
    with open_regular_file(path) as file:
        return _data_file(_read_header(file, path))


def _read_header(file: BinaryIO, path: Path) -> TextHeader:
    header = TextHeader(path)
    for number, line in enumerate(read_lines(file, "a MetaImage"), 1):
        if not line:
            continue
        key, separator, value = (part.strip() for part in line.partition("="))
        if not separator:
            raise wrong_line("a MetaImage", number, line, "key = value")
        header.add(key, value)
        if key == "ElementDataFile":  # voxels may follow
            return header
    raise wrong_file("a MetaImage", ", or truncated: its header ends without ElementDataFile")


def _refuse_unsupported(header: TextHeader) -> None:
    if (kind := header.get("ObjectType", "Image")) != "Image":
        raise header.refuse(f"holds a MetaIO object of type {quoted(kind)}", "not one 3D scan")
    if not _flag(header, "BinaryData", default=True):
        raise header.refuse("holds its voxels as text (BinaryData = False)", "damaged")
    if (channels := header.integer("ElementNumberOfChannels", 1)) != 1:
        raise header.refuse(f"has {channels} channels, not one of HU", "not HU")
    # ITK ignores these keys, so programs disagree on the values.
    for key, usual in (("Slope", 1.0), ("Offset", 0.0)):
        key = f"ElementToIntensityFunction{key}"
        if key in header and header.numbers(key, 1)[0] != usual:
            raise header.refuse(
                f"has {key} = {quoted(header[key])}, which most programs ignore",
                "not HU",
                "store HU, and remove it",
            )
    if header.get("DistanceUnits", "mm") not in ("mm", "?"):
        raise header.refuse(
            f"has DistanceUnits = {quoted(header['DistanceUnits'])}, which most programs ignore",
            "geometry",
            "store lengths in mm, and remove it",
        )


def _flag(header: TextHeader, key: str, default: bool = False) -> bool:
    value = header.get(key, str(default))
    if value.lower() not in ("true", "false", "t", "f", "1", "0"):
        raise header.refuse(f"has {quoted(value)} as {key}, not True or False", "damaged")
    return value[0] in "Tt1"


def _dimensions(header: TextHeader) -> int:
    count = header.integer("NDims")
    if not 3 <= count <= MAX_DIMENSIONS:
        raise header.refuse(
            f"has {count} as NDims, not the 3 dimensions of one scan", "not one 3D scan"
        )
    return count


def _shape(header: TextHeader) -> tuple[int, int, int]:
    lengths = header.integers("DimSize")
    if len(lengths) != _dimensions(header):
        raise header.refuse(
            f"contradicts itself: NDims is {header['NDims']}, DimSize {quoted(header['DimSize'])}",
            "damaged",
        )
    return check_shape(lengths)


def _dtype(header: TextHeader) -> np.dtype:
    kind = header["ElementType"]
    if kind not in DTYPES:
        raise header.refuse(
            f"holds voxels of type {quoted(kind)}, not plain numbers", "not HU", "convert to int16"
        )
    orders = {_flag(header, key) for key in BYTE_ORDER_KEYS if key in header}
    if len(orders) > 1:
        raise header.refuse(
            f"contradicts itself: {' and '.join(BYTE_ORDER_KEYS)} differ", "damaged"
        )
    return np.dtype((">" if True in orders else "<") + DTYPES[kind])


def _affine(header: TextHeader) -> np.ndarray:
    """Return the (4, 4) affine in mm to RAS+, converted from MetaIO's LPS."""
    count = _dimensions(header)
    key = "ElementSpacing" if "ElementSpacing" in header else "ElementSize"
    if key not in header:
        raise header.refuse("has no ElementSpacing", "geometry")
    spacing = header.numbers(key, count)[:3]
    if not np.all(spacing > 0):
        raise header.refuse(
            f"has {quoted(header[key])} as {key}", "geometry", "set the true one, in mm"
        )
    matrix = _agreed(header, MATRIX_KEYS, count**2)
    if matrix is None:
        raise header.refuse(
            "has no TransformMatrix, so left and right are unknown",
            "geometry",
            "set the true one, or convert the scan again from its source",
        )
    # Each row is the direction of an axis. A fourth axis has a single voxel and is ignored.
    directions = matrix.reshape(count, count)[:3, :3].T
    lengths = np.linalg.norm(directions, axis=0)
    if np.any(np.abs(lengths - 1) > SPACING_TOLERANCE):
        raise header.refuse(
            f"has a TransformMatrix whose rows have the lengths {lengths.round(4).tolist()} where "
            "1 is expected, so the spacing is unknown",
            "geometry",
        )
    origin = _agreed(header, ORIGIN_KEYS, count)
    return affine_of(directions * spacing, np.zeros(3) if origin is None else origin[:3], LPS)


def _agreed(header: TextHeader, keys: tuple[str, ...], count: int) -> np.ndarray | None:
    """Return the numbers under any of these keys, which must agree; None if all are missing."""
    found = {key: header.numbers(key, count) for key in keys if key in header}
    first = next(iter(found), None)
    for key, values in found.items():
        if not np.allclose(values, found[first or key], rtol=1e-4, atol=1e-4):
            raise header.refuse(
                f"contradicts itself: {first} and {key} differ", "geometry", "keep the true one"
            )
    return found[first] if first else None


def _data_file(header: TextHeader) -> Path | None:
    name = header["ElementDataFile"]
    is_local = name in ("LOCAL", "Local", "local")
    return None if is_local else header.data_file(name, "ElementDataFile")


def _skip_header(header: TextHeader, file: BinaryIO, count: int, is_compressed: bool) -> None:
    """Seek to the first voxel, after the text header has been read."""
    size = header.integer("HeaderSize", 0)
    if size == -1 and not is_compressed:
        seek_from_end(file, count)
    elif size and size < max(1, file.tell()):
        raise header.refuse(f"has {size} as HeaderSize, where no voxels can begin", "damaged")
    elif size:
        file.seek(size)


def _compression(file: BinaryIO) -> Encoding:
    """Detect the compression: MetaIO writes zlib streams, and also reads gzip streams."""
    magic = file.read(2)
    file.seek(-len(magic), 1)
    return "gzip" if magic == b"\x1f\x8b" else "zlib"
