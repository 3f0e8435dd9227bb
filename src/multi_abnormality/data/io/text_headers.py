"""Text headers and separate voxel files, common to MetaImage and NRRD."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from multi_abnormality.data.io.byte_streams import ByteStream
from multi_abnormality.data.io.geometry import is_default_geometry
from multi_abnormality.data.io.hu_conversion import to_hounsfield
from multi_abnormality.data.io.scan import Scan
from multi_abnormality.utils.errors import UnusableScan

MAX_HEADER_BYTES = 1 << 18  # some programs store all DICOM tags in it
SPACING_TOLERANCE = 0.01  # relative, between the fields of a header
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class TextHeader(dict[str, str]):
    """Fields of a header, with typed access that raises errors naming the field."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __missing__(self, key: str) -> str:
        raise self.refuse(f"has no {key}", "damaged")

    def add(self, key: str, value: str) -> None:
        """Add a field, which may be repeated with the same value."""
        if self.setdefault(key, value) != value:
            raise self.refuse(
                f"its header contradicts itself: {quoted(key)} is {quoted(self[key])} and "
                f"{quoted(value)}",
                "damaged",
                "keep the true one",
            )

    def integers(self, key: str) -> list[int]:
        words = self[key].split()
        if not words or not all(map(_INTEGER.fullmatch, words)):
            raise self.refuse(f"has {quoted(self[key])} as {key}, not whole numbers", "damaged")
        return [int(word) for word in words]

    def integer(self, key: str, default: int | None = None) -> int:
        if default is not None and key not in self:
            return default
        numbers = self.integers(key)
        if len(numbers) != 1:
            raise self.refuse(f"has {quoted(self[key])} as {key}, not one number", "damaged")
        return numbers[0]

    def numbers(self, key: str, count: int, words: list[str] | None = None) -> np.ndarray:
        """Parse a field, or some of its words, as (count,) float64."""
        words = self[key].split() if words is None else words
        if len(words) != count or not all(map(_NUMBER.fullmatch, words)):
            expected = f"{count} numbers" if count > 1 else "a number"
            raise self.refuse(
                f"has {quoted(self[key])} as {key}, where {expected} should be", "geometry"
            )
        values = np.array(words, np.float64)
        if not np.isfinite(values).all():
            raise self.refuse(f"has a number beyond all limits as {key}", "geometry")
        return values

    def data_file(self, name: str, key: str) -> Path:
        """Return the path of the voxel file, a regular file in the header's folder."""
        advice = "convert both to one .nii.gz file"
        if name.split()[:1] == ["LIST"] or "%" in name:
            raise self.refuse(
                f"has its voxels in several files ({key} is {quoted(name)})", "damaged", advice
            )
        parts = Path(name).parts
        if len(parts) != 1 or parts[0] == ".." or "\\" in name or "://" in name:
            raise self.refuse(
                f"names a file in another folder ({key} is {quoted(name)})",
                "damaged",
                f"put it beside the header and correct {key}",
            )
        path = self.path.parent / parts[0]
        if not path.is_file():
            problem = "which is not a regular file" if path.exists() else "which is not beside it"
            raise self.refuse(
                f"has its voxels in {quoted(name)}, {problem}", "damaged", "provide both files"
            )
        if path.samefile(self.path):
            raise self.refuse(f"names itself as the file with its voxels ({key})", "damaged")
        return path

    def stream_name(self, data_file: Path | None) -> str:
        """Return how errors name the voxels, which may be in a separate file."""
        beside = f" (voxels in {quoted(data_file.name)})" if data_file else ""
        return f"{self.path}{beside}"

    def refuse(
        self, what: str, kind: str, advice: str = "convert the scan again from its source"
    ) -> UnusableScan:
        return UnusableScan(f"{what}; {advice}", kind)


def quoted(value: str) -> str:
    """Quote a value from a file, so that it is safe to print."""
    return repr(value if len(value) <= 60 else f"{value[:57]}...")


def read_lines(file: BinaryIO, name: str) -> Iterator[str]:
    """Yield the stripped lines of a header."""
    left = MAX_HEADER_BYTES
    while line := file.readline(left):
        left -= len(line)
        if b"\0" in line or not left:
            raise wrong_file(name, ": it does not begin with a header of text lines")
        # File names may contain any bytes.
        yield line.decode("utf-8", "surrogateescape").strip()


def wrong_line(name: str, number: int, line: str, form: str) -> UnusableScan:
    """Return the error for line `number` of a header, which does not have the expected form."""
    what = f"line {number} of its header is {quoted(line)}, not '{form}'"
    return wrong_file(name, f", or damaged: {what}")


def wrong_file(name: str, why: str) -> UnusableScan:
    """Return the error for a file of another format than its suffix promises."""
    return UnusableScan(f"is not {name} file{why}; fetch it again or rename it", "damaged")


def read_voxels(
    header: TextHeader,
    shape: tuple[int, int, int],
    dtype: np.dtype,
    affine: np.ndarray,
    stream: ByteStream,
) -> Scan:
    """Read the voxels that a header describes.

    Args:
        shape: number of voxels along each axis, fastest axis first.
        dtype: type of the stored values.
        affine: (4, 4) mm, from voxel indices to RAS+ coordinates.
        stream: content from the first voxel on.
    """
    if is_default_geometry(affine, shape):
        raise header.refuse(
            "gives no orientation (it has just 1 mm along each axis, from zero or for a scan too "
            "small for that, which programs write by default), so spacing, left and right are "
            "unknown",
            "geometry",
        )
    stream.check_holds(byte_count(shape, dtype))
    hu, notes = to_hounsfield(stream.planes(shape, dtype), shape[::-1], dtype.kind in "iu")
    return Scan(hu.T, affine, notes)


def byte_count(shape: tuple[int, int, int], dtype: np.dtype) -> int:
    """Return the number of bytes of all voxels."""
    return math.prod(shape) * dtype.itemsize


def seek_from_end(file: BinaryIO, count: int) -> None:
    """Seek to the last `count` bytes; do nothing if fewer are left."""
    file.seek(max(file.tell(), os.fstat(file.fileno()).st_size - count))


def affine_of(columns: np.ndarray, origin: np.ndarray, signs: tuple[float, ...]) -> np.ndarray:
    """Return the (4, 4) affine in mm to RAS+.

    Args:
        columns: (3, 3) mm, directions of the axes in the file's world coordinates.
        origin: (3,) mm, first voxel in the file's world coordinates.
        signs: for each world axis, -1 if it points away from R, A or S, otherwise 1.
    """
    affine = np.eye(4)
    affine[:3, :3] = np.diag(signs) @ columns
    affine[:3, 3] = np.array(signs) * origin
    return affine
