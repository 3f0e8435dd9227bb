"""Reader of the stored bytes of each frame of a DICOM file."""

import lzma
import struct
import threading
import zipfile
import zlib
from io import BytesIO
from typing import Any, BinaryIO

from multi_abnormality.data.io.dicom_headers import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    Container,
    DicomHeader,
    DicomSlice,
    inflate,
)
from multi_abnormality.utils.errors import plural

UNCOMPRESSED = (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)
END_OF_IMAGE = b"\xff\xd9"  # in JPEG, JPEG-LS and JPEG 2000

_INTEGER_PIXELS = 0x7FE00010
_ITEM, _DELIMITER = 0xFFFEE000, 0xFFFEE0DD
_UNDEFINED_LENGTH = 0xFFFFFFFF
_LONG_VR = (b"OB", b"OW", b"UN", b"OF", b"OD")

Piece = tuple[int, int]  # offset in the file, number of bytes


class FrameReader:
    """Thread-safe reader of frames in a folder or .zip.

    Multi-frame files stay open until the reader is closed.
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self._lock = threading.Lock()
        self._kept: dict[DicomHeader, _PixelElement] = {}

    def __enter__(self) -> "FrameReader":
        return self

    def __exit__(self, *_: object) -> None:
        for element in self._kept.values():
            element.stream.close()

    def read(self, one: DicomSlice, frame_bytes: int) -> bytes:
        """Read the voxels of an uncompressed frame, or the stream of a compressed one."""
        try:
            if one.whole("NumberOfFrames", 1) == 1:
                with self._open(one.header) as stream:
                    return _PixelElement(stream, one, frame_bytes).read(one)
            with self._lock:
                if one.header not in self._kept:
                    stream = self._open(one.header)
                    if one.header.file.member is not None:  # not seekable
                        stream = BytesIO(stream.read())
                    self._kept[one.header] = _PixelElement(stream, one, frame_bytes)
                return self._kept[one.header].read(one)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError) as error:
            one.refuse(f"its pixel data are damaged ({error})", "damaged")

    def _open(self, header: DicomHeader) -> BinaryIO:
        stream = self._container.open(header.file)
        if header.syntax == DEFLATED:
            with stream:
                stream.seek(header.data_at)
                return inflate(stream, header.file)[0]
        return stream


class _PixelElement:
    """Pixel data element of the file that a slice is from."""

    def __init__(self, stream: BinaryIO, one: DicomSlice, frame_bytes: int) -> None:
        self.stream = stream
        self._order = "<" if one.header.encoding[1] else ">"
        start, length = self._locate_value(one)
        frames = one.whole("NumberOfFrames", 1)
        if one.header.syntax not in UNCOMPRESSED:
            if length != _UNDEFINED_LENGTH:
                one.refuse("its pixel data are not in fragments, as compressed ones are", "damaged")
            self._frames = self._group_fragments(one, frames, start)
            return
        if length == _UNDEFINED_LENGTH:
            one.refuse(
                f"its pixel data are compressed, but its transfer syntax is {one.header.syntax}",
                "damaged",
            )
        expected = frames * frame_bytes
        available = min(length, one.header.size - start)
        if available < expected:
            one.refuse(
                f"is truncated: {expected:,} bytes of voxels expected, {available:,} found",
                "damaged",
            )
        if length >= expected + max(2, frame_bytes // one.whole("Rows")):  # some are padded
            one.refuse(
                f"holds {length:,} bytes of voxels where {expected:,} are expected", "damaged"
            )
        self._frames = [[(start + index * frame_bytes, frame_bytes)] for index in range(frames)]

    def read(self, one: DicomSlice) -> bytes:
        """Read the bytes of a slice's frame."""
        parts = []
        for offset, length in self._frames[one.frame]:
            self.stream.seek(offset)
            parts.append(self.stream.read(length))
            if len(parts[-1]) < length:
                one.refuse("is truncated: its pixel data end too early", "damaged")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _locate_value(self, one: DicomSlice) -> Piece:
        """Return the offset and length of the element's value."""
        header = one.header
        assert header.pixels_at is not None
        self.stream.seek(header.pixels_at)
        group, element = self._unpack("HH")
        if group << 16 | element != _INTEGER_PIXELS:
            one.refuse("holds floating-point pixels, not a CT scanner's integers", "not HU")
        if not header.encoding[0]:
            vr, _ = self._unpack("2sH")
            if vr not in _LONG_VR:
                one.refuse(f"its pixel data have the unknown VR {vr!r}", "damaged")
        (length,) = self._unpack("L")
        return self.stream.tell(), length

    def _unpack(self, fields: str) -> tuple[Any, ...]:
        form = struct.Struct(self._order + fields)
        return form.unpack(self.stream.read(form.size))

    def _group_fragments(self, one: DicomSlice, frames: int, start: int) -> list[list[Piece]]:
        """Assign fragments to frames, by the offset table, their number or end-of-image markers."""
        self.stream.seek(start)
        fragments = []
        while head := self.stream.read(8):
            group, element, length = struct.unpack("<HHL", head)
            if group << 16 | element == _DELIMITER:
                break
            if group << 16 | element != _ITEM or length == _UNDEFINED_LENGTH:
                one.refuse("its pixel data are damaged: a fragment is not an item", "damaged")
            offset = self.stream.tell()
            if offset + length > one.header.size:
                one.refuse("is truncated: its pixel data end too early", "damaged")
            fragments.append((offset, length))
            self.stream.seek(offset + length)
        if len(fragments) <= 1:
            one.refuse("holds no pixel data", "damaged")
        table, *fragments = fragments
        if frames == 1:
            return [fragments]
        if len(fragments) == frames:
            return [[fragment] for fragment in fragments]
        groups = self._by_table(table, fragments) or self._by_end_of_image(fragments)
        if len(groups) != frames:
            one.refuse(
                f"its pixel data are of {plural(len(groups), 'frame', 'frames')}, not of {frames}",
                "damaged",
            )
        return groups

    def _by_table(self, table: Piece, fragments: list[Piece]) -> list[list[Piece]]:
        self.stream.seek(table[0])
        content = self.stream.read(table[1] // 4 * 4)
        first = fragments[0][0] - 8
        starts = {first + offset for (offset,) in struct.iter_unpack("<L", content)}
        return _split([(offset - 8 in starts, (offset, length)) for offset, length in fragments])

    def _by_end_of_image(self, fragments: list[Piece]) -> list[list[Piece]]:
        begins, marked = True, []
        for offset, length in fragments:
            marked.append((begins, (offset, length)))
            self.stream.seek(max(offset, offset + length - 4))
            begins = self.stream.read(min(length, 4)).rstrip(b"\0").endswith(END_OF_IMAGE)
        return _split(marked)


def _split(marked: list[tuple[bool, Piece]]) -> list[list[Piece]]:
    """Split pieces into groups that start at marked ones; return [] if the first is not marked."""
    groups: list[list[Piece]] = []
    for begins, piece in marked:
        if begins:
            groups.append([])
        if not groups:
            return []
        groups[-1].append(piece)
    return groups
