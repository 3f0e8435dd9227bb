"""Reader of NRRD files: .nrrd, and .nhdr with a separate file of voxels.

The format is Teem's (https://teem.sourceforge.net/nrrd/format.html).
"""

import re
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

_MAGIC = re.compile("NRRD000[1-5]")
_FIELD = re.compile(r"([^:]+):(=?)(.*)")
_VECTORS = re.compile(r"\s*((none|\([^()]*\))\s*)+")
_VECTOR = re.compile(r"none|\([^()]*\)")
_SAME_FIELDS = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}
_TYPE_NAMES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, "
    "int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
DTYPES = {name: dtype for dtype, names in _TYPE_NAMES.items() for name in names.split(", ")}
ENCODINGS: dict[str, Encoding] = {
    "raw": "raw",
    "gzip": "gzip",
    "gz": "gzip",
    "bzip2": "bzip2",
    "bz2": "bzip2",
}
SPACES = {  # signs of R, A and S in their coordinates
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
    "left-posterior-superior": (-1.0, -1.0, 1.0),
    "lps": (-1.0, -1.0, 1.0),
}
MAX_SKIP = 1 << 28  # bytes before the voxels: room for any header of another format
AXIS_KINDS = ("domain", "space", "none", "???")
MILLIMETRES = ("", "mm", "millimeter", "millimeters", "millimetre", "millimetres", "???")


def read(path: Path, _metadata: Series | None = None) -> Scan:
    """Read a scan by its header."""
    with ExitStack() as stack:
        file = stack.enter_context(open_regular_file(path))
        header = _read_header(file, path)
        axes, shape = _axes(header)
        dtype, affine, encoding = _dtype(header), _affine(header, axes), _encoding(header)
        voxels = _data_file(header)
        if voxels is not None:
            file = stack.enter_context(open_regular_file(voxels))
        _skip_lines(header, file)
        skipped = header.integer("byte skip", 0)
        if skipped == -1 and encoding == "raw":
            seek_from_end(file, byte_count(shape, dtype))
        elif not 0 <= skipped <= MAX_SKIP:
            raise header.refuse(f"has byte skip {skipped} with {encoding} voxels", "damaged")
        stream = ByteStream(file, header.stream_name(voxels), encoding)
        stream.skip(skipped)  # counts decompressed bytes
        return read_voxels(header, shape, dtype, affine, stream)


def data_file(path: Path) -> Path | None:
    """Return the separate file of voxels; None if they follow the header."""
    with open_regular_file(path) as file:
        return _data_file(_read_header(file, path))


def _read_header(file: BinaryIO, path: Path) -> TextHeader:
    header = TextHeader(path)
    lines = read_lines(file, "an NRRD")
    if not _MAGIC.fullmatch(magic := next(lines, "")):
        raise wrong_file("an NRRD", f": it begins with {quoted(magic)}, not NRRD0001 to NRRD0005")
    for number, line in enumerate(lines, 2):
        if not line:  # voxels may follow
            break
        if line.startswith("#"):
            continue
        match = _FIELD.fullmatch(line)
        if match is None:
            raise wrong_line("an NRRD", number, line, "field: value")
        if not match[2]:  # key:=value is free text
            key = match[1].strip().lower()
            header.add(_SAME_FIELDS.get(key, key), match[3].strip())
    return header


def _axes(header: TextHeader) -> tuple[list[int], tuple[int, int, int]]:
    """Return the scan's three axes and their lengths. Of four, one of length 1 is dropped."""
    count, lengths = header.integer("dimension"), header.integers("sizes")
    if count != len(lengths):
        raise header.refuse(
            f"contradicts itself: dimension is {count}, sizes {quoted(header['sizes'])}", "damaged"
        )
    kinds = header["kinds"].split() if "kinds" in header else ["???"] * count
    if len(kinds) != count:
        raise header.refuse(
            f"contradicts itself: dimension is {count}, kinds {quoted(header['kinds'])}", "damaged"
        )
    axes = list(range(count))
    if count == 4 and 1 in lengths:
        singles = [axis for axis in axes if lengths[axis] == 1]
        axes.remove(next((a for a in singles if kinds[a].lower() not in AXIS_KINDS), singles[-1]))
    for axis in axes:
        if kinds[axis].lower() not in AXIS_KINDS:
            raise header.refuse(
                f"has an axis of kind {quoted(kinds[axis])}, not three axes in space",
                "not one 3D scan",
                "give a single volume",
            )
    return axes, check_shape([lengths[axis] for axis in axes])


def _dtype(header: TextHeader) -> np.dtype:
    kind = header["type"].lower()
    if kind not in DTYPES:
        raise header.refuse(
            f"holds voxels of type {quoted(kind)}, not plain numbers", "not HU", "convert to int16"
        )
    if DTYPES[kind].endswith("1"):
        return np.dtype(DTYPES[kind])
    order = header["endian"].lower()
    if order not in ("little", "big"):
        raise header.refuse(f"has {quoted(order)} as endian, not little or big", "damaged")
    return np.dtype(("<" if order == "little" else ">") + DTYPES[kind])


def _encoding(header: TextHeader) -> Encoding:
    encoding = header["encoding"].lower()
    if encoding not in ENCODINGS:
        raise header.refuse(
            f"has voxels in encoding {quoted(encoding)}; {', '.join(ENCODINGS)} can be read",
            "damaged",
        )
    return ENCODINGS[encoding]


def _affine(header: TextHeader, axes: list[int]) -> np.ndarray:
    """Return the (4, 4) affine in mm to RAS+."""
    if "space" not in header:
        raise header.refuse("has no space, so left and right are unknown", "geometry")
    space = header["space"].lower()
    if space not in SPACES:
        raise header.refuse(
            f"has coordinates in space {quoted(space)}; {', '.join(list(SPACES)[::2])} can be read",
            "geometry",
        )
    for unit in re.findall('"([^"]*)"', header.get("space units", "")):
        if unit.lower() not in MILLIMETRES:
            raise header.refuse(
                f"has space units {quoted(unit)}, which most programs ignore",
                "geometry",
                "store lengths in mm",
            )
    columns = np.stack(_directions(header, axes), axis=1)
    _refuse_other_spacings(header, axes, columns)
    origin = np.zeros(3)
    if "space origin" in header:
        (vector,) = _vectors(header, "space origin", 1)
        origin = header.numbers("space origin", 3, _words(vector))
    return affine_of(columns, origin, SPACES[space])


def _directions(header: TextHeader, axes: list[int]) -> list[np.ndarray]:
    """Return the direction of each axis of the scan, (3,) mm."""
    if "space directions" not in header:
        raise header.refuse("has no space directions, so spacing and axes are unknown", "geometry")
    vectors = _vectors(header, "space directions", header.integer("dimension"))
    if any(vectors[axis] == "none" for axis in axes):
        raise header.refuse(
            f"has an axis without direction in space ({quoted(header['space directions'])})",
            "not one 3D scan",
        )
    directions = [header.numbers("space directions", 3, _words(vectors[axis])) for axis in axes]
    if not all(vector.any() for vector in directions):
        raise header.refuse("has a zero vector among its space directions", "geometry")
    return directions


def _refuse_other_spacings(header: TextHeader, axes: list[int], columns: np.ndarray) -> None:
    if "spacings" not in header:
        return
    words = header["spacings"].split()
    lengths = np.linalg.norm(columns, axis=0)
    for axis, length in zip(axes, lengths, strict=True):
        word = words[axis] if axis < len(words) else ""
        if word.lower() == "nan":  # only the direction is given
            continue
        if not np.isclose(header.numbers("spacings", 1, [word])[0], length, rtol=SPACING_TOLERANCE):
            raise header.refuse(
                f"contradicts itself: spacings are {quoted(header['spacings'])}, the space "
                f"directions are {lengths.round(4).tolist()} long",
                "geometry",
                "keep the true ones",
            )


def _vectors(header: TextHeader, key: str, count: int) -> list[str]:
    found = _VECTOR.findall(header[key]) if _VECTORS.fullmatch(header[key]) else []
    if len(found) != count:
        raise header.refuse(
            f"has {quoted(header[key])} as {key}, where {count} vectors should be", "geometry"
        )
    return found


def _words(vector: str) -> list[str]:
    return [word.strip() for word in vector.strip("()").split(",")]


def _data_file(header: TextHeader) -> Path | None:
    return header.data_file(header["data file"], "data file") if "data file" in header else None


def _skip_lines(header: TextHeader, file: BinaryIO) -> None:
    """Skip lines of text before the voxels, compressed or not."""
    count = header.integer("line skip", 0)
    for _ in range(count):
        while (part := file.readline(1 << 16)) and not part.endswith(b"\n"):
            pass  # a long line
        if not part:
            raise header.refuse(f"has line skip {count}, more lines than there are", "damaged")
